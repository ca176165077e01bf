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

#include "stand_in.h"

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

namespace {

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
  for (int time = 0; time < 2; ++time) {  // the second time nothing is to happen
    if (OrtStatus* const status = RegisterCustomOps(&options, &base)) fail(status->message);
  }
  if (options.ops.size() != 24) fail("not all operators are there");
  for (long call = 0; call < calls; ++call) one_call(options.ops, random);
  std::printf("%ld calls\n", calls);
  return 0;
}
