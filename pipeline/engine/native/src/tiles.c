/* Leave to use what a level of the kernels needs beside instructions. */
#include "tiles.h"

#if defined TILES && defined __linux__ && !defined PROMPTMILL_EMULATED_TILES
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18 /* XFEATURE_XTILEDATA */

/* Ask for the registers of the tiles, for all threads of this process; not 0: the system refuses them. */
int prepare(void) { return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0; }
#else
int prepare(void) { return 0; }
#endif
