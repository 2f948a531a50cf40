/* Which sources a library was built from: one of other sources must not be called. */
const char *built_from(void) { return PROMPTMILL_SOURCES; }
