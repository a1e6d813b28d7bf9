/* Gives back the pages of weights that nobody reads any more. */
static void release(void* ctx, const void* from, uint64_t bytes) {
#if defined(MADV_DONTNEED)
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = ((uintptr_t)from + page - 1) / page * page;
  uintptr_t end = ((uintptr_t)from + (uintptr_t)bytes) / page * page;
  if (end > begin) madvise((void*)begin, end - begin, MADV_DONTNEED);
#endif
  (void)ctx;
  (void)from;
  (void)bytes;
}

