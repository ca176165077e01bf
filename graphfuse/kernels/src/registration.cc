// The one entry point: onnxruntime calls RegisterCustomOps with the options of a session.

#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <type_traits>

#include "operators.h"
#include "processor.h"

namespace graphfuse {

namespace {

// What was registered with one copy of onnxruntime. Sessions hold pointers into it, and a host may
// destroy a session after the destructors of this library have run: so it lies in memory that goes
// with the library itself, and nothing destroys it.
struct Registration {
  const OrtApiBase* base;
  const void* table;  // a host may unload onnxruntime and load another where it was
  Api api;
  Operators operators;
  OrtCustomOpDomain* domain;
};
static_assert(std::is_trivially_destructible_v<Registration>);

// Copies of onnxruntime in one process: more than one is rare, more than these unheard of.
constexpr size_t kMostRuntimes = 8;

// Sessions look at a domain only while they are made, so those are given back when the library is
// unloaded. Where it stays (CMakeLists.txt) its end is that of the process, and nothing is given
// back: a host may have unloaded onnxruntime long before.
struct Domains {
  Registration* registrations;
  size_t count = 0;
#ifndef GRAPHFUSE_STAYS_LOADED
  ~Domains() {
    for (size_t k = 0; k < count; ++k) {
      registrations[k].api.ReleaseCustomOpDomain(registrations[k].domain);
    }
  }
#endif
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

// Options that have the operators stay as they are: onnxruntime takes a domain as often as it comes, and
// then makes no session of them ("Domain already set in registry"). It keeps entries that it does
// not know, and copies them with the options, so one of them remembers, whoever registers: another
// language, or another copy of this library.
OrtStatus* add(const Registration& made, OrtSessionOptions* options) {
  constexpr char kMark[] = "graphfuse.kernels";
  int there = 0;
  if (OrtStatus* const status = made.api.HasSessionConfigEntry(options, kMark, &there)) {
    return status;
  }
  if (there != 0) return nullptr;
  if (OrtStatus* const status = made.api.AddCustomOpDomain(options, made.domain)) return status;
  return made.api.AddSessionConfigEntry(options, kMark, "1");
}

OrtStatus* register_with(OrtSessionOptions* options, const OrtApiBase* base) {
  static std::mutex mutex;
  static Registration registrations[kMostRuntimes];
  static Domains domains = {registrations};

  if (choose_instruction_set() == nullptr) return fail(base, wrong_instruction_set().c_str());
  const uint32_t running = minor_version(base->GetVersionString());
  const uint32_t version = running < kNewestApi ? running : kNewestApi;
  const void* const table = running < kOldestApi ? nullptr : base->GetApi(version);
  if (table == nullptr) {
    return fail(
        base, "graphfuse's kernels need onnxruntime 1.17 or later; fused models run without them");
  }

  const std::lock_guard<std::mutex> lock(mutex);
  for (size_t k = 0; k < domains.count; ++k) {
    const Registration& made = registrations[k];
    if (made.base == base && made.table == table) return add(made, options);
  }
  if (domains.count == kMostRuntimes) {
    return fail(base, "too many copies of onnxruntime in one process for graphfuse's kernels");
  }
  Registration& made = registrations[domains.count];
  made.base = base;
  made.table = table;
  made.api = Api(table, version);
  made.operators = make_operators(made.api, version);
  if (OrtStatus* const status = make_domain(made)) return status;
  ++domains.count;
  return add(made, options);
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
