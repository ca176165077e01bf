// The one entry point: onnxruntime calls RegisterCustomOps with the options of a session.

#include <cstdlib>
#include <memory>
#include <mutex>
#include <exception>
#include <vector>

#include "operators.h"

namespace graphfuse {

namespace {

// What was registered with one copy of onnxruntime; sessions hold pointers into it.
struct Registration {
  Registration(const OrtApiBase* base, const void* table, uint32_t version)
      : base(base), api(table, version), operators(make_operators(api, version)) {}
  ~Registration() {
    if (domain != nullptr) api.ReleaseCustomOpDomain(domain);
  }
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

  const OrtApiBase* const base;
  const Api api;
  const std::vector<Operator> operators;
  OrtCustomOpDomain* domain = nullptr;
};

// The minor number of "1.17.3"; 0 where that cannot be read.
uint32_t minor_version(const char* text) {
  if (text == nullptr || text[0] != '1' || text[1] != '.') return 0;
  return static_cast<uint32_t>(std::strtoul(text + 2, nullptr, 10));
}

OrtStatus* fail(const OrtApiBase* base, const char* what) {
  return Api::create_status(base->GetApi(1))(kFail, what);
}

OrtStatus* make_domain(Registration& made) {
  const Api& api = made.api;
  if (OrtStatus* const status = api.CreateCustomOpDomain("graphfuse", &made.domain)) return status;
  for (const Operator& op : made.operators) {
    if (OrtStatus* const status = api.CustomOpDomain_Add(made.domain, &op)) return status;
  }
  return nullptr;
}

OrtStatus* register_with(OrtSessionOptions* options, const OrtApiBase* base) {
  static std::mutex mutex;
  static std::vector<std::unique_ptr<Registration>> registrations;

  const uint32_t running = minor_version(base->GetVersionString());
  const uint32_t version = running < kNewestApi ? running : kNewestApi;
  const void* const table = running < kOldestApi ? nullptr : base->GetApi(version);
  if (table == nullptr) {
    return fail(
        base, "graphfuse's kernels need onnxruntime 1.17 or later; fused models run without them");
  }

  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& made : registrations) {
    if (made->base == base) return made->api.AddCustomOpDomain(options, made->domain);
  }
  auto made = std::make_unique<Registration>(base, table, version);
  if (OrtStatus* const status = make_domain(*made)) return status;
  registrations.push_back(std::move(made));
  return registrations.back()->api.AddCustomOpDomain(options, registrations.back()->domain);
}

}  // namespace

}  // namespace graphfuse

extern "C" GRAPHFUSE_EXPORT OrtStatus* GRAPHFUSE_ORT_CALL
RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  try {
    return graphfuse::register_with(options, base);
  } catch (const std::exception& error) {
    return graphfuse::fail(base, error.what());
  }
}
