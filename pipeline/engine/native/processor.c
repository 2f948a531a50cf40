/* What the processor can do, as far as it decides which code runs. */
#include "vector.h"

int processor_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("x86-64-v4") ? 4 : __builtin_cpu_supports("x86-64-v3") ? 3 : 0;
#else
    return 1;
#endif
}

/* Whether it multiplies bytes and adds the products in whole numbers, 64 at a time. */
int multiplies_bytes(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return processor_level() == 4 && __builtin_cpu_supports("avx512vnni");
#else
    return 0;
#endif
}
