/* Products of pairs of bfloat16, summed in float32, as processors with AVX512_BF16 have an instruction for them.
 *
 * A lane of 4 bytes holds two successive elements of one channel or row, the first in its lower half. ADD_PAIRS adds a lane's
 * products to the lane's sum, the upper one first, each by a fused multiplication and addition that rounds to nearest, ties to
 * even. Subnormal numbers count as zeros, and results that are subnormal become zeros, whatever the thread has set (Intel's
 * manual, VDPBF16PS). Tests compile the same in C, to run it where the instruction is not.
 */
#ifndef PROMPTMILL_PAIRS_H
#define PROMPTMILL_PAIRS_H

#include "vector.h"

#if defined PROMPTMILL_EMULATED_PAIRS
#include "emulated.h"
#define PAIRS
#define ADD_PAIRS(sum, weights, row) sum = emulated_pairs(sum, weights, row)
#elif defined __AVX512BF16__ && LANES == 16
#define PAIRS
#define ADD_PAIRS(sum, weights, row) __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(row))
#endif

#endif
