/* Loaded into a process (LD_PRELOAD), adds to its wall clock the milliseconds that stand in the file
 * TEST_CLOCK, as a 64-bit number of the machine's own form. The file may change at any time. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_ms;

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) {
        return;
    }
    void *mapped = mmap(NULL, sizeof *offset_ms, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) {
        offset_ms = mapped;
    }
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    if (failed != 0) {
        return -1;
    }
    if (offset_ms != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t offset = *offset_ms;
        int64_t nanos = now->tv_nsec + offset % 1000 * 1000000;
        now->tv_sec += offset / 1000 + (nanos < 0 ? -1 : nanos >= 1000000000 ? 1 : 0);
        now->tv_nsec = nanos < 0 ? nanos + 1000000000 : nanos % 1000000000;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) {
        return -1;
    }
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *also) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) {
        return -1;
    }
    if (also != NULL) {
        *also = exact.tv_sec;
    }
    return exact.tv_sec;
}
