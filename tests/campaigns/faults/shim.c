/* Preloaded under Python: counts the system calls that change files, and lets the nth one fail.
   What `shim_arm` is told: 0 only counts; an errno fails the call; the others are below. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { KILL_BEFORE = -1, KILL_AFTER = -2, SHORT_WRITE = -3 };

static int armed, count, nth, how;

void shim_arm(int which, int fault) { armed = 1; count = 0; nth = which; how = fault; }
int shim_count(void) { armed = 0; return count; }

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* 0: go on; otherwise the errno to fail with. */
static int before(void) {
  if (!armed || ++count != nth) return 0;
  if (how == KILL_BEFORE) die();
  return how > 0 ? how : 0;
}

static void after(void) { if (armed && count == nth && how == KILL_AFTER) die(); }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAULTY(result, name, parameters, arguments)             \
  result name parameters {                                      \
    int error = before();                                       \
    if (error) { errno = error; return -1; }                    \
    result value = REAL(name) arguments;                        \
    int kept = errno;                                           \
    after();                                                    \
    errno = kept;                                               \
    return value;                                               \
  }

FAULTY(int, rename, (const char *a, const char *b), (a, b))
FAULTY(int, renameat, (int f, const char *a, int g, const char *b), (f, a, g, b))
FAULTY(int, renameat2, (int f, const char *a, int g, const char *b, unsigned h), (f, a, g, b, h))
FAULTY(int, futimens, (int f, const struct timespec *t), (f, t))
FAULTY(int, fchmod, (int f, mode_t m), (f, m))
FAULTY(int, fchown, (int f, uid_t u, gid_t g), (f, u, g))
FAULTY(int, link, (const char *a, const char *b), (a, b))
FAULTY(int, linkat, (int f, const char *a, int g, const char *b, int h), (f, a, g, b, h))
FAULTY(int, unlink, (const char *a), (a))
FAULTY(int, unlinkat, (int f, const char *a, int g), (f, a, g))
FAULTY(int, mkdir, (const char *a, mode_t m), (a, m))
FAULTY(int, mkdirat, (int f, const char *a, mode_t m), (f, a, m))
FAULTY(int, rmdir, (const char *a), (a))
FAULTY(int, ftruncate64, (int f, off64_t n), (f, n))
FAULTY(ssize_t, pread64, (int f, void *b, size_t n, off64_t o), (f, b, n, o))

/* Nothing here cuts the power: a real fsync would only take time. */
int fsync(int f) {
  int error = before();
  if (error) { errno = error; return -1; }
  if (fcntl(f, F_GETFD) < 0) return -1;
  after();
  return 0;
}

ssize_t write(int f, const void *b, size_t n) {
  int error = before();
  if (error) { errno = error; return -1; }
  if (armed && count == nth && how == SHORT_WRITE && n > 1) n /= 2;
  ssize_t value = REAL(write)(f, b, n);
  after();
  return value;
}

static int opened(const char *name, int f, const char *path, int flags, mode_t mode) {
  int error = before();
  if (error) { errno = error; return -1; }
  int (*real)(int, const char *, int, ...) = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, name);
  int value = real(f, path, flags, mode);
  int kept = errno;
  after();
  errno = kept;
  return value;
}

#define MODE mode_t mode = 0; va_list list; va_start(list, flags); \
  if (flags & O_CREAT) mode = va_arg(list, mode_t); va_end(list)

int open(const char *path, int flags, ...) { MODE; return opened("openat64", AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; return opened("openat64", AT_FDCWD, path, flags, mode); }
int openat(int f, const char *path, int flags, ...) { MODE; return opened("openat64", f, path, flags, mode); }
int openat64(int f, const char *path, int flags, ...) { MODE; return opened("openat64", f, path, flags, mode); }
