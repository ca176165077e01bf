// What this processor has.

#pragma once

#include <cstdint>
#include <string>

#include "rows.h"

namespace graphfuse {

// The best instruction set of this processor, or the one that GRAPHFUSE_KERNEL_ISA names.
// Null: it names one that does not exist or that this processor lacks.
const InstructionSet* choose_instruction_set();

// What is wrong with GRAPHFUSE_KERNEL_ISA, and what it can be on this machine.
std::string wrong_instruction_set();

// Bytes of the last level of cache, or a guess where the system does not tell.
int64_t last_cache_bytes();

}  // namespace graphfuse
