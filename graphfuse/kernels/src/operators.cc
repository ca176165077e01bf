#include "operators.h"

#include <cmath>
#include <new>

#include "kernel.h"
#include "layout.h"

namespace graphfuse {

namespace {

const Operator& of(const OrtCustomOp* op) { return *static_cast<const Operator*>(op); }

const char* GRAPHFUSE_ORT_CALL name(const OrtCustomOp* op) { return of(op).name; }
const char* GRAPHFUSE_ORT_CALL provider(const OrtCustomOp*) { return "CPUExecutionProvider"; }
int GRAPHFUSE_ORT_CALL input_type(const OrtCustomOp* op, size_t index) {
  return static_cast<int>(of(op).input_type(index));
}
size_t GRAPHFUSE_ORT_CALL input_count(const OrtCustomOp* op) { return of(op).inputs(); }
int GRAPHFUSE_ORT_CALL output_type(const OrtCustomOp* op, size_t) {
  return static_cast<int>(of(op).type);
}
size_t GRAPHFUSE_ORT_CALL output_count(const OrtCustomOp*) { return 2; }
int GRAPHFUSE_ORT_CALL input_characteristic(const OrtCustomOp*, size_t) { return kRequired; }
int GRAPHFUSE_ORT_CALL output_characteristic(const OrtCustomOp*, size_t index) {
  return index == 0 ? kRequired : kOptional;  // nobody may read Sum
}
int GRAPHFUSE_ORT_CALL input_memory(const OrtCustomOp*, size_t) { return 0; }
int GRAPHFUSE_ORT_CALL one(const OrtCustomOp*) { return 1; }
int GRAPHFUSE_ORT_CALL last_version(const OrtCustomOp*) { return 1000; }

void* GRAPHFUSE_ORT_CALL create_unused(const OrtCustomOp*, const void*, const OrtKernelInfo*) {
  return nullptr;  // onnxruntime 1.16 and later call create
}
void GRAPHFUSE_ORT_CALL compute_unused(void*, OrtKernelContext*) {}

OrtStatus* GRAPHFUSE_ORT_CALL create(const OrtCustomOp* op, const void*, const OrtKernelInfo* info,
                                     void** kernel) {
  try {
    return Kernel::create(of(op), info, kernel);
  } catch (const std::exception& error) {
    return of(op).api->CreateStatus(kFail, error.what());
  }
}

OrtStatus* GRAPHFUSE_ORT_CALL compute(void* kernel, OrtKernelContext* context) {
  auto* const self = static_cast<Kernel*>(kernel);
  try {
    return self->compute(context);
  } catch (const std::exception& error) {
    return self->fail(kFail, error.what());
  }
}

void GRAPHFUSE_ORT_CALL destroy(void* kernel) { delete static_cast<Kernel*>(kernel); }

// Y and Sum may take the memory of A or B: a row is read before it is written. onnxruntime does so
// only where shapes are equal and nobody reads the operand later.
size_t GRAPHFUSE_ORT_CALL may_inplace(int** inputs, int** outputs) {
  static int from[] = {0, 1, 0, 1};
  static int to[] = {1, 1, 0, 0};
  *inputs = from;
  *outputs = to;
  return 4;
}
void GRAPHFUSE_ORT_CALL release_inplace(int*, int*) {}
size_t GRAPHFUSE_ORT_CALL no_aliases(int** inputs, int** outputs) {
  *inputs = nullptr;
  *outputs = nullptr;
  return 0;
}

// An input's shape during shape inference; false where a dimension or the rank is not known.
bool known_shape(const Api& api, const OrtShapeInferContext* context, size_t index, Shape& shape,
                 OrtTensorTypeAndShapeInfo*& info) {
  // The info belongs to the context.
  OrtStatus* status = api.ShapeInferContext_GetInputTypeShape(context, index, &info);
  size_t rank = 0;
  if (status == nullptr) status = api.GetDimensionsCount(info, &rank);
  if (status == nullptr && rank > 0 && rank <= kMaxRank) {
    status = api.GetDimensions(info, shape.dims, rank);
  }
  if (status != nullptr) {
    api.ReleaseStatus(status);
    return false;
  }
  shape.rank = static_cast<int>(rank);
  // A tensor of unknown rank looks like a scalar here.
  return rank > 0 && rank <= kMaxRank;
}

// Y has the shape of the sum. onnxruntime tells no one here how many outputs the node has, and
// writes past the end for one that it lacks, so Sum's shape stays what the model says.
OrtStatus* GRAPHFUSE_ORT_CALL infer_shapes(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const Api& api = *of(op).api;
  Shape a, b;
  OrtTensorTypeAndShapeInfo *info_a = nullptr, *info_b = nullptr;
  if (!known_shape(api, context, 0, a, info_a) || !known_shape(api, context, 1, b, info_b)) {
    return nullptr;
  }
  const char *names_a[kMaxRank], *names_b[kMaxRank];
  OrtStatus* status = api.GetSymbolicDimensions(info_a, names_a, a.rank);
  if (status == nullptr) status = api.GetSymbolicDimensions(info_b, names_b, b.rank);
  if (status != nullptr) {
    api.ReleaseStatus(status);
    return nullptr;
  }
  // Only where A alone gives every dimension of the sum: B's is the same or 1.
  if (b.rank > a.rank) return nullptr;
  for (int k = 0; k < a.rank; ++k) {
    const std::string symbol = names_a[k];
    if (a.dims[k] < 0 && symbol.empty()) return nullptr;
    const int own = k - (a.rank - b.rank);
    if (own < 0 || b.dims[own] == 1) continue;
    const bool same = a.dims[k] >= 0 ? a.dims[k] == b.dims[own]
                                     : b.dims[own] < 0 && symbol == names_b[own];
    if (!same) return nullptr;
  }
  status = api.ShapeInferContext_SetOutputTypeShape(context, 0, info_a);
  if (status != nullptr) api.ReleaseStatus(status);
  return nullptr;
}

}  // namespace

ElementType Operator::input_type(size_t index) const {
  const int at = static_cast<int>(index);
  return at == 2 || at == bias_index() ? parameters : type;
}

Operators make_operators(const Api& api, uint32_t version) {
  struct Name {
    const char* name;
    bool centred, biased;
  };
  constexpr Name kNames[] = {
      {"AddLayerNormalization", true, false},
      {"AddRMSNormalization", false, false},
      {"AddBiasLayerNormalization", true, true},
      {"AddBiasRMSNormalization", false, true},
  };
  constexpr ElementType kTypes[][2] = {
      {ElementType::kFloat, ElementType::kFloat},
      {ElementType::kDouble, ElementType::kDouble},
      {ElementType::kFloat16, ElementType::kFloat16},
      {ElementType::kFloat16, ElementType::kFloat},
      {ElementType::kBFloat16, ElementType::kBFloat16},
      {ElementType::kBFloat16, ElementType::kFloat},
  };
  Operators operators = {};
  size_t made = 0;
  for (const Name& of_name : kNames) {
    for (const auto& types : kTypes) {
      Operator op = {};
      op.version = version < kNewestOperator ? version : kNewestOperator;
      op.CreateKernel = create_unused;
      op.GetName = name;
      op.GetExecutionProviderType = provider;
      op.GetInputType = input_type;
      op.GetInputTypeCount = input_count;
      op.GetOutputType = output_type;
      op.GetOutputTypeCount = output_count;
      op.KernelCompute = compute_unused;
      op.KernelDestroy = destroy;
      op.GetInputCharacteristic = input_characteristic;
      op.GetOutputCharacteristic = output_characteristic;
      op.GetInputMemoryType = input_memory;
      op.GetVariadicInputMinArity = one;
      op.GetVariadicInputHomogeneity = one;
      op.GetVariadicOutputMinArity = one;
      op.GetVariadicOutputHomogeneity = one;
      op.CreateKernelV2 = create;
      op.KernelComputeV2 = compute;
      op.InferOutputShapeFn = infer_shapes;
      op.GetStartVersion = one;
      op.GetEndVersion = last_version;
      op.GetMayInplace = may_inplace;
      op.ReleaseMayInplace = release_inplace;
      op.GetAliasMap = no_aliases;
      op.ReleaseAliasMap = release_inplace;
      op.api = &api;
      op.name = of_name.name;
      op.centred = of_name.centred;
      op.biased = of_name.biased;
      op.type = types[0];
      op.parameters = types[1];
      operators[made++] = op;
    }
  }
  return operators;
}

}  // namespace graphfuse
