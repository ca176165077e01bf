// A stand-in for onnxruntime: the part of its interface that the kernels use, and nothing else.
//
// Every tensor is its own block of memory, exactly as long as it must be, at an odd address; tasks
// are taken by threads that are started for them.

#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../../../graphfuse/kernels/src/ort_abi.h"

using graphfuse::ElementType;

struct OrtStatus {
  std::string message;
};
struct OrtSessionOptions {
  std::vector<const OrtCustomOp*> ops;
  std::map<std::string, std::string> entries;
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
  options->ops.insert(options->ops.end(), domain->ops.begin(), domain->ops.end());
  return nullptr;
}
OrtStatus* add_entry(OrtSessionOptions* options, const char* key, const char* value) {
  options->entries[key] = value;
  return nullptr;
}
OrtStatus* has_entry(const OrtSessionOptions* options, const char* key, int* has) {
  *has = static_cast<int>(options->entries.count(key));
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
  table[130] = reinterpret_cast<void*>(add_entry);
  table[237] = reinterpret_cast<void*>(has_entry);
  table[274] = reinterpret_cast<void*>(parallel_for);
  table[414] = reinterpret_cast<void*>(shape_reference);
  return table;
}

const char* version_text = "1.31.1";
const char* version_string() { return version_text; }

}  // namespace
