// A host that holds a session in a global: it is destroyed at exit, after what was built later.
//
// Itself a custom-op library, because that is how a library gets onnxruntime's table without its
// headers. HOST_MODEL and HOST_LIBRARY name the model and the library that it registers.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

struct ApiBase {
  void* const* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

void* const* api = nullptr;

template <class... Arguments>
void* call(int position, Arguments... arguments) {
  return reinterpret_cast<void* (*)(Arguments...)>(api[position])(arguments...);
}

struct Holder {
  void* session = nullptr;
  ~Holder() {
    if (session == nullptr) return;
    call(95, session);  // ReleaseSession
    std::fputs("released\n", stderr);
  }
};

Holder holder;

}  // namespace

extern "C" __attribute__((visibility("default"))) void* RegisterCustomOps(void*,
                                                                          const ApiBase* base) {
  api = base->GetApi(17);
  std::FILE* const file = std::fopen(std::getenv("HOST_MODEL"), "rb");
  std::vector<char> model(1 << 20);
  const size_t size = std::fread(model.data(), 1, model.size(), file);
  std::fclose(file);
  void *env = nullptr, *options = nullptr, *handle = nullptr;
  const char* const library = std::getenv("HOST_LIBRARY");
  void* status = call(3, 3, "host", &env);                            // CreateEnv
  if (status == nullptr) status = call(10, &options);                 // CreateSessionOptions
  if (status == nullptr) status = call(29, options, library, &handle);  // RegisterCustomOpsLibrary
  const void* const bytes = model.data();
  if (status == nullptr) {
    status = call(8, env, bytes, size, static_cast<const void*>(options), &holder.session);
  }
  return status;
}
