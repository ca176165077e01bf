// The part of onnxruntime's C interface that a custom-op library needs.
//
// The onnxruntime wheel ships no headers, and a build must not fetch any. What is written down
// here is frozen: onnxruntime asserts the position of every entry of its table at compile time,
// only ever appends to it, and only ever appends to OrtCustomOp. Names are onnxruntime's own.
//
// A table is asked for by version: version N is in onnxruntime 1.N and later, GetApi answers NULL
// for anything newer than itself. So the version asked for is capped to the running one
// (registration.cc), and entries are only used from the version that has them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#if defined(_WIN32)
#define GRAPHFUSE_ORT_CALL __stdcall
#define GRAPHFUSE_EXPORT __declspec(dllexport)
#else
#define GRAPHFUSE_ORT_CALL
#define GRAPHFUSE_EXPORT __attribute__((visibility("default")))
#endif

extern "C" {

// Opaque to us.
struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtOpAttr;

struct OrtApiBase {
  const void*(GRAPHFUSE_ORT_CALL* GetApi)(uint32_t version);
  const char*(GRAPHFUSE_ORT_CALL* GetVersionString)();
};

// The fields of version 18; a library that says it is of version 17 has the first 22 of them read.
struct OrtCustomOp {
  uint32_t version;
  void*(GRAPHFUSE_ORT_CALL* CreateKernel)(const OrtCustomOp*, const void* api,
                                          const OrtKernelInfo*);
  const char*(GRAPHFUSE_ORT_CALL* GetName)(const OrtCustomOp*);
  const char*(GRAPHFUSE_ORT_CALL* GetExecutionProviderType)(const OrtCustomOp*);
  int(GRAPHFUSE_ORT_CALL* GetInputType)(const OrtCustomOp*, size_t index);
  size_t(GRAPHFUSE_ORT_CALL* GetInputTypeCount)(const OrtCustomOp*);
  int(GRAPHFUSE_ORT_CALL* GetOutputType)(const OrtCustomOp*, size_t index);
  size_t(GRAPHFUSE_ORT_CALL* GetOutputTypeCount)(const OrtCustomOp*);
  void(GRAPHFUSE_ORT_CALL* KernelCompute)(void* kernel, OrtKernelContext*);
  void(GRAPHFUSE_ORT_CALL* KernelDestroy)(void* kernel);
  int(GRAPHFUSE_ORT_CALL* GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  int(GRAPHFUSE_ORT_CALL* GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  int(GRAPHFUSE_ORT_CALL* GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int(GRAPHFUSE_ORT_CALL* GetVariadicInputMinArity)(const OrtCustomOp*);
  int(GRAPHFUSE_ORT_CALL* GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int(GRAPHFUSE_ORT_CALL* GetVariadicOutputMinArity)(const OrtCustomOp*);
  int(GRAPHFUSE_ORT_CALL* GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus*(GRAPHFUSE_ORT_CALL* CreateKernelV2)(const OrtCustomOp*, const void* api,
                                                 const OrtKernelInfo*, void** kernel);
  OrtStatus*(GRAPHFUSE_ORT_CALL* KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus*(GRAPHFUSE_ORT_CALL* InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int(GRAPHFUSE_ORT_CALL* GetStartVersion)(const OrtCustomOp*);
  int(GRAPHFUSE_ORT_CALL* GetEndVersion)(const OrtCustomOp*);
  size_t(GRAPHFUSE_ORT_CALL* GetMayInplace)(int** inputs, int** outputs);
  void(GRAPHFUSE_ORT_CALL* ReleaseMayInplace)(int* inputs, int* outputs);
  size_t(GRAPHFUSE_ORT_CALL* GetAliasMap)(int** inputs, int** outputs);
  void(GRAPHFUSE_ORT_CALL* ReleaseAliasMap)(int* inputs, int* outputs);
};

}  // extern "C"

namespace graphfuse {

constexpr uint32_t kOldestApi = 17;  // the first with KernelContext_ParallelFor
constexpr uint32_t kNewestApi = 24;  // the first with GetTensorElementTypeAndShapeDataReference
constexpr uint32_t kNewestOperator = 18;  // the first whose OrtCustomOp has GetMayInplace

// OrtErrorCode
constexpr int kFail = 1;
constexpr int kInvalidArgument = 2;
constexpr int kInvalidGraph = 10;

// ONNXTensorElementDataType
enum class ElementType : int { kFloat = 1, kFloat16 = 10, kDouble = 11, kBFloat16 = 16 };

// OrtCustomOpInputOutputCharacteristic
constexpr int kRequired = 0;
constexpr int kOptional = 1;

// The entries of OrtApi that are used, each with its position in the table.
struct Api {
  Api() = default;
  // `version` is that of the table.
  Api(const void* table, uint32_t version) {
    const auto* entries = static_cast<void* const*>(table);
    const auto load = [entries](auto& function, size_t position) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(entries[position]);
    };
    load(CreateStatus, 0);
    load(CreateCustomOpDomain, 26);
    load(CustomOpDomain_Add, 27);
    load(AddCustomOpDomain, 28);
    load(GetTensorMutableData, 51);
    load(GetDimensionsCount, 61);
    load(GetDimensions, 62);
    load(GetSymbolicDimensions, 63);
    load(GetTensorTypeAndShape, 65);
    load(KernelInfoGetAttribute_float, 85);
    load(KernelInfoGetAttribute_int64, 86);
    load(KernelContext_GetOutputCount, 89);
    load(KernelContext_GetInput, 90);
    load(KernelContext_GetOutput, 91);
    load(ReleaseStatus, 93);
    load(ReleaseTensorTypeAndShapeInfo, 99);
    load(ReleaseCustomOpDomain, 101);
    load(AddSessionConfigEntry, 130);
    load(HasSessionConfigEntry, 237);
    load(ShapeInferContext_GetInputTypeShape, 268);
    load(ShapeInferContext_SetOutputTypeShape, 270);
    load(KernelContext_ParallelFor, 274);
    if (version >= 24) load(GetTensorElementTypeAndShapeDataReference, 414);
  }

  using CreateStatusFn = OrtStatus*(GRAPHFUSE_ORT_CALL*)(int code, const char* message);
  // The first entry of every table, of whatever version.
  static CreateStatusFn create_status(const void* table) {
    return reinterpret_cast<CreateStatusFn>(*static_cast<void* const*>(table));
  }

  CreateStatusFn CreateStatus;
  OrtStatus*(GRAPHFUSE_ORT_CALL* CreateCustomOpDomain)(const char* name, OrtCustomOpDomain**);
  OrtStatus*(GRAPHFUSE_ORT_CALL* CustomOpDomain_Add)(OrtCustomOpDomain*, const OrtCustomOp*);
  OrtStatus*(GRAPHFUSE_ORT_CALL* AddCustomOpDomain)(OrtSessionOptions*, OrtCustomOpDomain*);
  OrtStatus*(GRAPHFUSE_ORT_CALL* GetTensorMutableData)(OrtValue*, void** data);
  OrtStatus*(GRAPHFUSE_ORT_CALL* GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*,
                                                     size_t* count);
  OrtStatus*(GRAPHFUSE_ORT_CALL* GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t* dims,
                                                size_t count);
  OrtStatus*(GRAPHFUSE_ORT_CALL* GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo*,
                                                        const char** names, size_t count);
  OrtStatus*(GRAPHFUSE_ORT_CALL* GetTensorTypeAndShape)(const OrtValue*,
                                                        OrtTensorTypeAndShapeInfo**);
  OrtStatus*(GRAPHFUSE_ORT_CALL* KernelInfoGetAttribute_float)(const OrtKernelInfo*,
                                                               const char* name, float*);
  OrtStatus*(GRAPHFUSE_ORT_CALL* KernelInfoGetAttribute_int64)(const OrtKernelInfo*,
                                                               const char* name, int64_t*);
  OrtStatus*(GRAPHFUSE_ORT_CALL* KernelContext_GetOutputCount)(const OrtKernelContext*, size_t*);
  OrtStatus*(GRAPHFUSE_ORT_CALL* KernelContext_GetInput)(const OrtKernelContext*, size_t index,
                                                         const OrtValue**);
  OrtStatus*(GRAPHFUSE_ORT_CALL* KernelContext_GetOutput)(OrtKernelContext*, size_t index,
                                                          const int64_t* dims, size_t count,
                                                          OrtValue**);
  void(GRAPHFUSE_ORT_CALL* ReleaseStatus)(OrtStatus*);
  void(GRAPHFUSE_ORT_CALL* ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
  void(GRAPHFUSE_ORT_CALL* ReleaseCustomOpDomain)(OrtCustomOpDomain*);
  OrtStatus*(GRAPHFUSE_ORT_CALL* AddSessionConfigEntry)(OrtSessionOptions*, const char* key,
                                                        const char* value);
  OrtStatus*(GRAPHFUSE_ORT_CALL* HasSessionConfigEntry)(const OrtSessionOptions*, const char* key,
                                                        int* has);
  OrtStatus*(GRAPHFUSE_ORT_CALL* ShapeInferContext_GetInputTypeShape)(
      const OrtShapeInferContext*, size_t index, OrtTensorTypeAndShapeInfo**);
  OrtStatus*(GRAPHFUSE_ORT_CALL* ShapeInferContext_SetOutputTypeShape)(
      const OrtShapeInferContext*, size_t index, const OrtTensorTypeAndShapeInfo*);
  OrtStatus*(GRAPHFUSE_ORT_CALL* KernelContext_ParallelFor)(
      const OrtKernelContext*, void (*task)(void* data, size_t index), size_t tasks,
      size_t batches, void* data);

  // Null before version 24. Spares the memory that GetTensorTypeAndShape allocates, which is a third
  // of a call on a row of 256.
  OrtStatus*(GRAPHFUSE_ORT_CALL* GetTensorElementTypeAndShapeDataReference)(
      const OrtValue*, int* type, const int64_t** dims, size_t* count) = nullptr;
};

}  // namespace graphfuse
