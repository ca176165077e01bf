// What a call is to a kernel: rows to normalise, and where each operand's rows lie.
//
// This header is shared by translation units that are compiled for different instruction sets, so
// it holds plain data only: an inline function compiled for AVX-512 must not be the copy that the
// linker keeps for everyone.

#pragma once

#include <cstdint>

#include "ort_abi.h"

namespace graphfuse {

// A or B: `rank` leading strides, and how the elements of one row lie. Strides are in elements and
// 0 where the operand is broadcast.
struct Operand {
  const void* data;
  const int64_t* row_strides;
  const int64_t* inner_strides;  // null: the elements of a row are contiguous
};

// y = norm(a + (b + add_bias)) over rows of `extent` elements.
struct Call {
  int64_t extent;

  // Leading dimensions, as few as the operands' strides allow.
  int rank;
  const int64_t* dims;
  // Normalised dimensions; read only where an operand's row is not contiguous.
  int inner_rank;
  const int64_t* inner_dims;

  Operand a;
  Operand b;
  const void* add_bias;  // null: none; else `extent` elements
  const void* scale;     // `extent` elements, as are the bias's
  const void* bias;      // null for an RMSNorm
  void* y;
  void* sum;  // null: nobody reads it
  double epsilon;

  // Outputs leave the caches anyway: write past them.
  bool stream;
  // They, or the operands, come from beyond the nearer caches: ask for them early. Read for narrow
  // rows only.
  bool prefetch;
};

// Computes the rows [begin, end). False: no memory for a row's scratch.
using RunRows = bool (*)(const Call&, int64_t begin, int64_t end);

// The kernels of one instruction set. A null function: types that do not go together.
struct InstructionSet {
  const char* name;
  RunRows (*find)(ElementType type, ElementType parameters, bool centred);
};

extern const InstructionSet kPortable;
#if defined(__x86_64__)
extern const InstructionSet kAvx2;
extern const InstructionSet kAvx512;
#endif

}  // namespace graphfuse
