// A host on Windows: onnxruntime.dll is loaded, the kernels registered with it by their path, a model
// without inputs run, and the bytes of its outputs printed. Then everything is given back, in a host's order.
//
//   windows.exe ONNXRUNTIME LIBRARY TURNS MODEL BYTES [MODEL BYTES ...]    the bytes of Y, and of Sum

#include <windows.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

struct ApiBase {
  void* const* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

void* const* api = nullptr;

// Positions in onnxruntime's table are frozen.
template <class... Arguments>
void* call(int position, Arguments... arguments) {
  return reinterpret_cast<void* (*)(Arguments...)>(api[position])(arguments...);
}

void check(void* status, const char* what) {
  if (status == nullptr) return;
  const char* const text = reinterpret_cast<const char* (*)(void*)>(api[2])(status);
  std::fprintf(stderr, "%s: %s\n", what, text);
  std::exit(1);
}

std::vector<char> read(const char* path) {
  std::FILE* const file = std::fopen(path, "rb");
  if (file == nullptr) std::exit(2);
  std::vector<char> bytes(1 << 22);
  bytes.resize(std::fread(bytes.data(), 1, bytes.size(), file));
  std::fclose(file);
  return bytes;
}

void run(void* env, const char* library, const char* path, int bytes, bool print) {
  void *options = nullptr, *session = nullptr, *handle = nullptr;
  check(call(10, &options), "CreateSessionOptions");
  check(call(29, options, library, &handle), "RegisterCustomOpsLibrary");
  const std::vector<char> model = read(path);
  check(call(8, env, static_cast<const void*>(model.data()), model.size(),
             static_cast<const void*>(options), &session),
        "CreateSessionFromArray");
  for (const char* name : {"Y", "Sum"}) {
    const char* const names[] = {name};
    void* value = nullptr;
    const void* const none = nullptr;
    check(call(9, session, none, none, none, size_t{0}, static_cast<const char* const*>(names),
               size_t{1}, &value),
          "Run");
    const unsigned char* data = nullptr;
    check(call(51, value, &data), "GetTensorMutableData");
    for (int i = 0; print && i < bytes; ++i) std::printf("%02x", data[i]);
    if (print) std::printf("\n");
    call(96, value);  // ReleaseValue
  }
  call(95, session);   // ReleaseSession
  call(100, options);  // ReleaseSessionOptions
  FreeLibrary(static_cast<HMODULE>(handle));
}

}  // namespace

int main(int count, char** arguments) {
  const HMODULE runtime = LoadLibraryA(arguments[1]);
  if (runtime == nullptr) {
    std::fprintf(stderr, "onnxruntime does not load: %lu\n", GetLastError());
    return 3;
  }
  const auto base = reinterpret_cast<const ApiBase* (*)()>(
      reinterpret_cast<void*>(GetProcAddress(runtime, "OrtGetApiBase")))();
  api = base->GetApi(17);
  void* env = nullptr;
  check(call(3, 3, "host", &env), "CreateEnv");
  const int turns = std::atoi(arguments[3]);
  for (int k = 4; k + 1 < count; k += 2) {
    for (int turn = 0; turn < turns; ++turn) {
      run(env, arguments[2], arguments[k], std::atoi(arguments[k + 1]), turn == turns - 1);
    }
  }
  std::printf("onnxruntime %s\n", base->GetVersionString());
  call(92, env);  // ReleaseEnv
  FreeLibrary(runtime);
  return 0;
}
