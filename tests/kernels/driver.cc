// The kernels without onnxruntime: a host of our own that calls them, for sanitizers.
//
//   driver CALLS SEED VERSION
//
// It answers the same table of functions (of a version such as 1.17.0, so that what old and new
// versions differ in is run) and its own threads take the tasks. Each call draws an operator, types,
// shapes that broadcast, an axis, and whether Sum is asked for; every tensor is its own block of
// memory, exactly as long as it must be, at an odd address. Results are compared with float64, and
// bit by bit between one thread and several, and between several callers at once.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../graphfuse/kernels/src/ort_abi.h"

using graphfuse::ElementType;

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

struct OrtStatus {
  std::string message;
};
struct OrtSessionOptions {
  std::vector<const OrtCustomOp*> ops;
};
struct OrtCustomOpDomain {
  std::vector<const OrtCustomOp*> ops;
};
struct OrtTensorTypeAndShapeInfo {
  std::vector<int64_t> dims;
};
struct OrtKernelInfo {
  float epsilon;
  int64_t axis;
  int64_t stash_type;
};

namespace {

size_t size_of(int type) {
  if (type == static_cast<int>(ElementType::kDouble)) return 8;
  return type == static_cast<int>(ElementType::kFloat) ? 4 : 2;
}

int64_t product(const std::vector<int64_t>& dims) {
  int64_t elements = 1;
  for (const int64_t dim : dims) elements *= dim;
  return elements;
}

// float16 and bfloat16 bit by bit, in the plainest way.
double decode(int type, const unsigned char* at) {
  if (type == static_cast<int>(ElementType::kDouble)) {
    double value;
    std::memcpy(&value, at, 8);
    return value;
  }
  if (type == static_cast<int>(ElementType::kFloat)) {
    float value;
    std::memcpy(&value, at, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  const int exponent_bits = type == static_cast<int>(ElementType::kFloat16) ? 5 : 8;
  const int fraction_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

// Numbers with few digits, which every type holds exactly.
void encode(int type, double value, unsigned char* at) {
  if (type == static_cast<int>(ElementType::kDouble)) {
    std::memcpy(at, &value, 8);
    return;
  }
  const float single = static_cast<float>(value);
  if (type == static_cast<int>(ElementType::kFloat)) {
    std::memcpy(at, &single, 4);
    return;
  }
  uint32_t bits;
  std::memcpy(&bits, &single, 4);
  uint16_t half = static_cast<uint16_t>(bits >> 16);
  if (type == static_cast<int>(ElementType::kFloat16)) {
    const uint32_t magnitude = bits & 0x7fffffff;
    half = static_cast<uint16_t>((bits >> 16) & 0x8000);
    if (magnitude != 0) half |= static_cast<uint16_t>((magnitude >> 13) - (112 << 10));
  }
  std::memcpy(at, &half, 2);
}

}  // namespace

// A tensor in a block of its own, `skew` bytes into it.
struct OrtValue {
  OrtValue(int type, std::vector<int64_t> dims, size_t skew)
      : type(type), dims(std::move(dims)), skew(skew) {
    const size_t bytes = static_cast<size_t>(product(this->dims)) * size_of(type);
    block.reset(new unsigned char[bytes + skew]);
    std::memset(block.get(), 0xA5, bytes + skew);
    end = block.get() + bytes + skew;
  }
  unsigned char* data() const { return block.get() + skew; }
  double at(int64_t index) const { return decode(type, data() + index * size_of(type)); }

  int type;
  std::vector<int64_t> dims;
  size_t skew;
  std::unique_ptr<unsigned char[]> block;
  unsigned char* end;
};

struct OrtKernelContext {
  std::vector<std::unique_ptr<OrtValue>>* inputs;
  std::vector<std::unique_ptr<OrtValue>> outputs;
  bool sum_is_read;
  int type;
  size_t skew;
  int threads;
};

namespace {

OrtStatus* create_status(int, const char* message) { return new OrtStatus{message}; }
void release_status(OrtStatus* status) { delete status; }
OrtStatus* create_domain(const char*, OrtCustomOpDomain** domain) {
  *domain = new OrtCustomOpDomain;
  return nullptr;
}
OrtStatus* domain_add(OrtCustomOpDomain* domain, const OrtCustomOp* op) {
  domain->ops.push_back(op);
  return nullptr;
}
OrtStatus* add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain) {
  options->ops = domain->ops;
  return nullptr;
}
void release_domain(OrtCustomOpDomain* domain) { delete domain; }
OrtStatus* mutable_data(OrtValue* value, void** data) {
  *data = value->data();
  return nullptr;
}
OrtStatus* type_and_shape(const OrtValue* value, OrtTensorTypeAndShapeInfo** info) {
  *info = new OrtTensorTypeAndShapeInfo{value->dims};
  return nullptr;
}
OrtStatus* dimensions_count(const OrtTensorTypeAndShapeInfo* info, size_t* count) {
  *count = info->dims.size();
  return nullptr;
}
OrtStatus* dimensions(const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t count) {
  std::copy_n(info->dims.begin(), count, dims);
  return nullptr;
}
void release_info(OrtTensorTypeAndShapeInfo* info) { delete info; }
OrtStatus* shape_reference(const OrtValue* value, int* type, const int64_t** dims, size_t* count) {
  *type = value->type;
  *dims = value->dims.data();
  *count = value->dims.size();
  return nullptr;
}
OrtStatus* attribute_float(const OrtKernelInfo* info, const char* name, float* value) {
  if (std::string(name) != "epsilon") return new OrtStatus{"no such attribute"};
  *value = info->epsilon;
  return nullptr;
}
OrtStatus* attribute_int(const OrtKernelInfo* info, const char* name, int64_t* value) {
  const std::string wanted = name;
  if (wanted != "axis" && wanted != "stash_type") return new OrtStatus{"no such attribute"};
  *value = wanted == "axis" ? info->axis : info->stash_type;
  return nullptr;
}
OrtStatus* input_count(const OrtKernelContext* context, size_t* count) {
  *count = context->inputs->size();
  return nullptr;
}
OrtStatus* output_count(const OrtKernelContext*, size_t* count) {
  *count = 2;
  return nullptr;
}
OrtStatus* input(const OrtKernelContext* context, size_t index, const OrtValue** value) {
  *value = (*context->inputs)[index].get();
  return nullptr;
}
OrtStatus* output(OrtKernelContext* context, size_t index, const int64_t* dims, size_t count,
                  OrtValue** value) {
  *value = nullptr;
  if (index == 1 && !context->sum_is_read) return nullptr;
  context->outputs[index] = std::make_unique<OrtValue>(
      context->type, std::vector<int64_t>(dims, dims + count), context->skew);
  *value = context->outputs[index].get();
  return nullptr;
}
OrtStatus* parallel_for(const OrtKernelContext* context, void (*task)(void*, size_t), size_t tasks,
                        size_t, void* data) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t index = next++; index < tasks; index = next++) task(data, index);
  };
  std::vector<std::thread> threads;
  for (int k = 1; k < context->threads; ++k) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return nullptr;
}

const void* table_of(uint32_t) {
  static void* table[512] = {};
  table[0] = reinterpret_cast<void*>(create_status);
  table[26] = reinterpret_cast<void*>(create_domain);
  table[27] = reinterpret_cast<void*>(domain_add);
  table[28] = reinterpret_cast<void*>(add_domain);
  table[51] = reinterpret_cast<void*>(mutable_data);
  table[61] = reinterpret_cast<void*>(dimensions_count);
  table[62] = reinterpret_cast<void*>(dimensions);
  table[65] = reinterpret_cast<void*>(type_and_shape);
  table[85] = reinterpret_cast<void*>(attribute_float);
  table[86] = reinterpret_cast<void*>(attribute_int);
  table[88] = reinterpret_cast<void*>(input_count);
  table[89] = reinterpret_cast<void*>(output_count);
  table[90] = reinterpret_cast<void*>(input);
  table[91] = reinterpret_cast<void*>(output);
  table[93] = reinterpret_cast<void*>(release_status);
  table[99] = reinterpret_cast<void*>(release_info);
  table[101] = reinterpret_cast<void*>(release_domain);
  table[274] = reinterpret_cast<void*>(parallel_for);
  table[414] = reinterpret_cast<void*>(shape_reference);
  return table;
}

const char* version_text = "1.31.1";
const char* version_string() { return version_text; }

using Random = std::mt19937_64;
using Values = std::vector<std::unique_ptr<OrtValue>>;

int64_t draw(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

struct Case {
  std::vector<int64_t> a, b, sum;
  OrtKernelInfo info;
  bool sum_is_read;
};

constexpr int64_t kMostElements = 100000;

Case draw_any(Random& random) {
  Case drawn = {};
  const int rank = static_cast<int>(draw(random, 1, 4));
  for (int k = 0; k < rank; ++k) {
    int64_t dim = draw(random, 0, 40) == 0 ? 0 : draw(random, 1, 6);
    if (k == rank - 1 && draw(random, 0, 1)) dim = draw(random, 1, 300);
    if (k == rank - 1 && draw(random, 0, 60) == 0) dim = draw(random, 15000, 17000);
    if (k == 0 && draw(random, 0, 20) == 0) dim = draw(random, 100, 400);
    drawn.sum.push_back(dim);
  }
  drawn.a = drawn.b = drawn.sum;
  if (draw(random, 0, 2) == 0) {
    for (int k = 0; k < rank; ++k) {
      if (draw(random, 0, 2) == 0) (draw(random, 0, 1) ? drawn.a : drawn.b)[k] = 1;
    }
    if (draw(random, 0, 2) == 0) drawn.b.erase(drawn.b.begin(), drawn.b.begin() + rank / 2);
    for (int k = 0; k < rank; ++k) {
      const int in_b = k - (rank - static_cast<int>(drawn.b.size()));
      const int64_t other = in_b < 0 ? 1 : drawn.b[in_b];
      drawn.sum[k] = drawn.a[k] == 1 ? other : drawn.a[k];
    }
  }
  drawn.info = {1e-5f, -draw(random, 1, rank), 1};
  drawn.sum_is_read = draw(random, 0, 1);
  return drawn;
}

Case draw_case(Random& random) {
  Case drawn = draw_any(random);
  while (product(drawn.sum) > kMostElements) drawn = draw_any(random);
  return drawn;
}

std::unique_ptr<OrtValue> filled(Random& random, int type, std::vector<int64_t> dims) {
  auto value = std::make_unique<OrtValue>(type, std::move(dims),
                                          size_of(type) * static_cast<size_t>(draw(random, 0, 9)));
  const int64_t elements = product(value->dims);
  for (int64_t i = 0; i < elements; ++i) {
    // Multiples of 1/16: float16 and bfloat16 hold them, and their sums, exactly.
    encode(type, static_cast<double>(draw(random, -60, 60)) / 16,
           value->data() + i * size_of(type));
  }
  return value;
}

// The element of an operand that broadcasts to element `index` of the sum.
double broadcast_at(const OrtValue& value, const std::vector<int64_t>& sum, int64_t index) {
  int64_t offset = 0, stride = 1;
  for (int k = static_cast<int>(sum.size()) - 1; k >= 0; --k) {
    const int own = k - static_cast<int>(sum.size() - value.dims.size());
    const int64_t position = index % sum[k];
    index /= sum[k];
    if (own < 0) continue;
    if (value.dims[own] != 1) offset += position * stride;
    stride *= value.dims[own];
  }
  return value.at(offset);
}

void fail(const std::string& what) {
  std::printf("driver: %s\n", what.c_str());
  std::exit(1);
}

void check_against_float64(const Case& drawn, const std::string& name, const Values& inputs,
                           const Values& outputs, int type) {
  const bool centred = name.find("Layer") != std::string::npos;
  const bool biased = name.find("AddBias") != std::string::npos;
  const int64_t elements = product(drawn.sum);
  int64_t extent = 1;
  for (int k = 0; k < -drawn.info.axis; ++k) extent *= drawn.sum[drawn.sum.size() - 1 - k];
  if (elements == 0) return;
  const int64_t last = drawn.sum.back();
  const double unit = type == static_cast<int>(ElementType::kDouble)    ? 1e-13
                      : type == static_cast<int>(ElementType::kFloat)   ? 1e-5
                      : type == static_cast<int>(ElementType::kFloat16) ? 2e-3
                                                                        : 1.6e-2;
  std::vector<double> row(static_cast<size_t>(extent));
  for (int64_t begin = 0; begin < elements; begin += extent) {
    long double mean = 0, squares = 0;
    for (int64_t i = 0; i < extent; ++i) {
      double h = broadcast_at(*inputs[0], drawn.sum, begin + i) +
                 broadcast_at(*inputs[1], drawn.sum, begin + i);
      if (biased) h += inputs.back()->at((begin + i) % last);
      row[i] = h;
      mean += h;
      if (outputs[1] && std::fabs(outputs[1]->at(begin + i) - h) > unit * (1 + std::fabs(h))) {
        fail(name + ": a wrong sum");
      }
    }
    mean = centred ? mean / extent : 0;
    for (const double h : row) squares += (h - mean) * (h - mean);
    const double root = static_cast<double>(std::sqrt(squares / extent + drawn.info.epsilon));
    for (int64_t i = 0; i < extent; ++i) {
      const double z = static_cast<double>(row[i] - mean) / root;
      const double scale = inputs[2]->at(i);
      const double bias = centred ? inputs[3]->at(i) : 0;
      const double wanted = z * scale + bias;
      // A row of equal numbers divides rounding errors by the root of epsilon.
      const double bound = unit * (1 + std::fabs(wanted) + std::fabs(bias) + 10 / root);
      if (!(std::fabs(outputs[0]->at(begin + i) - wanted) <= bound)) {
        char text[200];
        std::snprintf(text, sizeof text, "%s of type %d, extent %lld: %.17g in place of %.17g",
                      name.c_str(), type, static_cast<long long>(extent),
                      outputs[0]->at(begin + i), wanted);
        fail(text);
      }
    }
  }
}

bool same(const Values& left, const Values& right) {
  for (size_t k = 0; k < left.size(); ++k) {
    if (!left[k] != !right[k]) return false;
    if (!left[k]) continue;
    const size_t bytes = static_cast<size_t>(left[k]->end - left[k]->data());
    if (std::memcmp(left[k]->data(), right[k]->data(), bytes) != 0) return false;
  }
  return true;
}

Values compute(const OrtCustomOp* op, void* kernel, Values& inputs, const Case& drawn, int type,
               size_t skew, int threads) {
  OrtKernelContext context = {&inputs, {}, drawn.sum_is_read, type, skew, threads};
  context.outputs.resize(2);
  if (OrtStatus* const status = op->KernelComputeV2(kernel, &context)) fail(status->message);
  return std::move(context.outputs);
}

void one_call(const std::vector<const OrtCustomOp*>& ops, Random& random) {
  const OrtCustomOp* const op = ops[static_cast<size_t>(draw(random, 0, ops.size() - 1))];
  const Case drawn = draw_case(random);
  const std::string name = op->GetName(op);
  const int type = op->GetInputType(op, 0);
  std::vector<int64_t> normalized(drawn.sum.end() + drawn.info.axis, drawn.sum.end());
  Values inputs;
  inputs.push_back(filled(random, type, drawn.a));
  inputs.push_back(filled(random, type, drawn.b));
  for (size_t k = 2; k < op->GetInputTypeCount(op); ++k) {
    const bool add_bias = k + 1 == op->GetInputTypeCount(op) && name.find("AddBias") == 0;
    const std::vector<int64_t> last = {drawn.sum.back()};
    inputs.push_back(filled(random, op->GetInputType(op, k), add_bias ? last : normalized));
  }
  void* kernel = nullptr;
  if (OrtStatus* const status = op->CreateKernelV2(op, nullptr, &drawn.info, &kernel)) {
    fail(status->message);
  }
  const size_t skew = size_of(type) * static_cast<size_t>(draw(random, 0, 3));
  const Values alone = compute(op, kernel, inputs, drawn, type, skew, 1);
  check_against_float64(drawn, name, inputs, alone, type);
  if (!same(alone, compute(op, kernel, inputs, drawn, type, skew, 3))) fail("threads differ");
  if (draw(random, 0, 9) == 0) {
    std::vector<std::thread> callers;
    for (int k = 0; k < 3; ++k) {
      callers.emplace_back([&] {
        if (!same(alone, compute(op, kernel, inputs, drawn, type, skew, 2))) fail("callers differ");
      });
    }
    for (std::thread& caller : callers) caller.join();
  }
  op->KernelDestroy(kernel);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) fail("three arguments: CALLS SEED VERSION");
  const long calls = std::strtol(arguments[1], nullptr, 10);
  Random random(static_cast<uint64_t>(std::strtoll(arguments[2], nullptr, 10)));
  version_text = arguments[3];
  const OrtApiBase base = {table_of, version_string};
  OrtSessionOptions options;
  if (OrtStatus* const status = RegisterCustomOps(&options, &base)) fail(status->message);
  if (options.ops.size() != 24) fail("not all operators are there");
  for (long call = 0; call < calls; ++call) one_call(options.ops, random);
  std::printf("%ld calls\n", calls);
  return 0;
}
