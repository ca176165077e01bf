// A host that loads an onnxruntime, has the kernels registered with it, and unloads it again.
//
// Built twice: with RUNTIME as the stand-in for onnxruntime, a shared library, and without as the
// host, a program that takes the paths of the stand-in and of the kernels.

#ifdef RUNTIME

#include <algorithm>
#include <cmath>

#include "stand_in.h"

extern "C" {
__attribute__((visibility("default"))) OrtApiBase base = {table_of, version_string};
__attribute__((visibility("default"))) OrtSessionOptions options;
}

#else

#include <dlfcn.h>

#include <cstdio>

using Register = void* (*)(void* options, void* base);

int main(int, char** arguments) {
  for (int turn = 0; turn < 3; ++turn) {
    void* const runtime = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    void* const library = dlopen(arguments[2], RTLD_NOW | RTLD_LOCAL);
    if (runtime == nullptr || library == nullptr) {
      std::fprintf(stderr, "%s\n", dlerror());
      return 1;
    }
    const auto enter = reinterpret_cast<Register>(dlsym(library, "RegisterCustomOps"));
    if (enter(dlsym(runtime, "options"), dlsym(runtime, "base")) != nullptr) return 2;
    dlclose(library);
    dlclose(runtime);
    if (dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD) != nullptr) return 3;
  }
  std::puts("unloaded");
}

#endif
