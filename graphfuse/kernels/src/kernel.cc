#include "kernel.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "processor.h"

namespace graphfuse {

namespace {

// Work below which waking another thread costs more than it saves, and that of one task. It is
// counted in elements: a row costs as much as kRowElements more than it has.
// Measured with `python -m graphfuse.bench.kernel_timing`.
constexpr int64_t kSerialWork = 24576;
constexpr int64_t kTaskWork = 8192;
constexpr int64_t kRowElements = 32;
// Tasks of many rows have a multiple of it: narrow rows are computed as many at once as a vector
// has lanes.
constexpr int64_t kRowsTogether = 16;

// What a call touches without leaving the second cache, as a rule.
constexpr int64_t kNearBytes = 1 << 20;

constexpr int64_t kFloatStash = 1;
constexpr int64_t kDoubleStash = 11;

size_t size_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat:
      return 4;
    case ElementType::kDouble:
      return 8;
    default:
      return 2;
  }
}

struct Job {
  const Call* call;
  RunRows run;
  int64_t rows;
  int64_t rows_of_task;
  std::atomic<bool> short_of_memory{false};
};

void run_task(void* data, size_t index) {
  auto& job = *static_cast<Job*>(data);
  const int64_t begin = static_cast<int64_t>(index) * job.rows_of_task;
  const int64_t end = begin + job.rows_of_task;
  if (!job.run(*job.call, begin, end < job.rows ? end : job.rows)) job.short_of_memory = true;
}

// AddBias has the last axis; where more are normalised it is repeated along the others.
void repeat(const void* vector, int64_t elements, int64_t extent, size_t element_size,
            std::vector<unsigned char>& room) {
  room.resize(static_cast<size_t>(extent) * element_size);
  const size_t bytes = static_cast<size_t>(elements) * element_size;
  for (size_t at = 0; at < room.size(); at += bytes) std::memcpy(&room[at], vector, bytes);
}

// Whether stores past the caches are possible for every row.
bool aligned(const void* data, int64_t row_bytes) {
  constexpr uintptr_t kLine = 64;
  return reinterpret_cast<uintptr_t>(data) % kLine == 0 && row_bytes % kLine == 0;
}

}  // namespace

OrtStatus* Kernel::fail(int code, const std::string& what) const {
  return op_.api->CreateStatus(code, ("graphfuse::" + std::string(op_.name) + ": " + what).c_str());
}

OrtStatus* Kernel::create(const Operator& op, const OrtKernelInfo* info, void** kernel) {
  const Api& api = *op.api;
  const InstructionSet* const set = choose_instruction_set();
  if (set == nullptr) {
    return api.CreateStatus(kFail, wrong_instruction_set().c_str());
  }
  const RunRows run = set->find(op.type, op.parameters, op.centred);
  auto made = std::unique_ptr<Kernel>(new Kernel(op, run));

  // An attribute that the node does not have keeps its default.
  float epsilon = 0;
  if (OrtStatus* const status = api.KernelInfoGetAttribute_float(info, "epsilon", &epsilon)) {
    api.ReleaseStatus(status);
  } else {
    made->epsilon_ = epsilon;
  }
  int64_t stash = op.type == ElementType::kDouble ? kDoubleStash : kFloatStash;
  for (const auto& [name, value] : {std::pair<const char*, int64_t*>{"axis", &made->axis_},
                                    {"stash_type", &stash}}) {
    int64_t given = 0;
    if (OrtStatus* const status = api.KernelInfoGetAttribute_int64(info, name, &given)) {
      api.ReleaseStatus(status);
    } else {
      *value = given;
    }
  }
  if (!(made->epsilon_ > 0) || !std::isfinite(made->epsilon_)) {
    return made->fail(kInvalidGraph, "epsilon is " + std::to_string(made->epsilon_) +
                                         "; it must be a positive number");
  }
  if (stash != kFloatStash && !(stash == kDoubleStash && op.type == ElementType::kDouble)) {
    return made->fail(kInvalidGraph, "stash_type is " + std::to_string(stash) +
                                         "; this kernel has 1 (float32), and 11 for float64");
  }
  *kernel = made.release();
  return nullptr;
}

OrtStatus* Kernel::read(const OrtKernelContext* context, int index, Shape& shape,
                        const void*& data) const {
  const Api& api = *op_.api;
  const OrtValue* value = nullptr;
  if (OrtStatus* const status = api.KernelContext_GetInput(context, index, &value)) return status;
  if (value == nullptr) {
    return fail(kInvalidArgument, "input " + std::to_string(index) + " is missing");
  }
  if (OrtStatus* const status = read_shape(value, index, shape)) return status;
  void* memory = nullptr;
  OrtStatus* const status = api.GetTensorMutableData(const_cast<OrtValue*>(value), &memory);
  data = memory;
  return status;
}

OrtStatus* Kernel::read_shape(const OrtValue* value, int index, Shape& shape) const {
  const Api& api = *op_.api;
  size_t rank = 0;
  OrtStatus* status = nullptr;
  if (api.GetTensorElementTypeAndShapeDataReference != nullptr) {
    int type = 0;
    const int64_t* dims = nullptr;
    status = api.GetTensorElementTypeAndShapeDataReference(value, &type, &dims, &rank);
    if (status == nullptr && rank <= kMaxRank) std::copy(dims, dims + rank, shape.dims);
  } else {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    status = api.GetTensorTypeAndShape(value, &info);
    if (status != nullptr) return status;
    status = api.GetDimensionsCount(info, &rank);
    if (status == nullptr && rank <= kMaxRank) {
      status = api.GetDimensions(info, shape.dims, rank);
    }
    api.ReleaseTensorTypeAndShapeInfo(info);
  }
  shape.rank = static_cast<int>(rank);
  if (status != nullptr || rank <= kMaxRank) return status;
  return fail(kInvalidArgument, "input " + std::to_string(index) + " has rank " +
                                    std::to_string(rank) + "; the most is " +
                                    std::to_string(kMaxRank));
}

OrtStatus* Kernel::check_vector(const char* name, const Shape& shape, const Shape& wanted) const {
  bool same = shape.rank == wanted.rank;
  for (int k = 0; same && k < shape.rank; ++k) same = shape.dims[k] == wanted.dims[k];
  if (same) return nullptr;
  return fail(kInvalidArgument,
              std::string(name) + " has shape " + shape.text() + "; it must be " + wanted.text());
}

OrtStatus* Kernel::compute(OrtKernelContext* context) const {
  const Api& api = *op_.api;
  Shape a, b, scale, bias, add_bias;
  Call call = {};
  if (OrtStatus* const status = read(context, 0, a, call.a.data)) return status;
  if (OrtStatus* const status = read(context, 1, b, call.b.data)) return status;
  if (OrtStatus* const status = read(context, 2, scale, call.scale)) return status;

  Layout layout;
  const std::string wrong = layout.set(a, b, axis_);
  if (!wrong.empty()) return fail(kInvalidArgument, wrong);
  const Shape normalized = layout.normalized();
  if (OrtStatus* const status = check_vector("Scale", scale, normalized)) return status;
  if (op_.centred) {
    if (OrtStatus* const status = read(context, op_.bias_index(), bias, call.bias)) return status;
    if (OrtStatus* const status = check_vector("Bias", bias, normalized)) return status;
  }
  std::vector<unsigned char> repeated;
  if (op_.biased) {
    if (OrtStatus* const status = read(context, op_.add_bias_index(), add_bias, call.add_bias)) {
      return status;
    }
    Shape last;
    last.rank = 1;
    last.dims[0] = normalized.dims[normalized.rank - 1];
    if (OrtStatus* const status = check_vector("AddBias", add_bias, last)) return status;
    if (layout.extent != last.dims[0] && layout.extent > 0) {
      repeat(call.add_bias, last.dims[0], layout.extent, size_of(op_.type), repeated);
      call.add_bias = repeated.data();
    }
  }

  size_t outputs = 0;
  if (OrtStatus* const status = api.KernelContext_GetOutputCount(context, &outputs)) return status;
  void** const memory[] = {&call.y, &call.sum};
  for (size_t index = 0; index < outputs && index < 2; ++index) {
    OrtValue* value = nullptr;
    if (OrtStatus* const status = api.KernelContext_GetOutput(
            context, index, layout.output.dims, layout.output.rank, &value)) {
      return status;
    }
    if (value == nullptr) continue;  // the node names no Sum
    if (OrtStatus* const status = api.GetTensorMutableData(value, memory[index])) return status;
  }
  if (layout.rows == 0 || layout.extent == 0) return nullptr;

  call.extent = layout.extent;
  call.rank = layout.rank;
  call.dims = layout.dims;
  call.inner_rank = layout.inner_rank;
  call.inner_dims = layout.inner_dims;
  call.a.row_strides = layout.a_strides;
  call.b.row_strides = layout.b_strides;
  call.a.inner_strides = layout.a_contiguous ? nullptr : layout.a_inner;
  call.b.inner_strides = layout.b_contiguous ? nullptr : layout.b_inner;
  call.epsilon = epsilon_;
  return run(context, call, layout.rows);
}

OrtStatus* Kernel::run(OrtKernelContext* context, const Call& given, int64_t rows) const {
  Call call = given;
  const int64_t row_bytes = call.extent * static_cast<int64_t>(size_of(op_.type));
  // Ordinary stores read each line before they write it, and push out what is still wanted: beyond
  // the last cache they cost a third more, within it they save the reader a trip to memory.
  const int64_t touched = rows * row_bytes * (call.sum == nullptr ? 3 : 4);
  call.stream = touched > last_cache_bytes() / 4 * 3 && aligned(call.y, row_bytes) &&
                (call.sum == nullptr || aligned(call.sum, row_bytes));
  call.prefetch = touched > kNearBytes && !call.stream;
  Job job;
  job.call = &call;
  job.run = run_;
  job.rows = rows;
  job.rows_of_task = rows;
  const int64_t row_work = call.extent + kRowElements;
  if (rows * row_work > kSerialWork) {
    job.rows_of_task = (kTaskWork + row_work - 1) / row_work;
    if (job.rows_of_task > kRowsTogether) job.rows_of_task &= -kRowsTogether;
  }
  const int64_t tasks = (rows + job.rows_of_task - 1) / job.rows_of_task;
  if (tasks == 1) {
    run_task(&job, 0);
  } else if (OrtStatus* const status = op_.api->KernelContext_ParallelFor(
                 context, run_task, static_cast<size_t>(tasks), 0, &job)) {
    return status;
  }
  if (!job.short_of_memory) return nullptr;
  return fail(kFail, "no memory for a row of " + std::to_string(call.extent) + " elements");
}

}  // namespace graphfuse
