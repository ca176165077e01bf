// A fused operator of one node: its attributes, and one call of it.

#pragma once

#include <string>

#include "layout.h"
#include "operators.h"
#include "rows.h"

namespace graphfuse {

class Kernel {
 public:
  // Reads the node's attributes; a status says what is wrong with them.
  static OrtStatus* create(const Operator& op, const OrtKernelInfo* info, void** kernel);

  OrtStatus* compute(OrtKernelContext* context) const;
  OrtStatus* fail(int code, const std::string& what) const;

 private:
  Kernel(const Operator& op, RunRows run) : op_(op), run_(run) {}

  OrtStatus* read(const OrtKernelContext* context, int index, Shape& shape,
                  const void*& data) const;
  OrtStatus* read_shape(const OrtValue* value, int index, Shape& shape) const;
  OrtStatus* check_vector(const char* name, const Shape& shape, const Shape& wanted) const;
  OrtStatus* run(OrtKernelContext* context, const Call& call, int64_t rows) const;

  const Operator& op_;
  RunRows run_;
  double epsilon_ = 1e-5f;  // as the attribute would hold it
  int64_t axis_ = -1;
};

}  // namespace graphfuse
