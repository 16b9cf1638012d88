#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
static volatile sig_atomic_t rang;
static void ring(int number) { rang = number == SIGALRM; }
static void *square(void *n) { return (void *)((long)n * (long)n); }
int main(void) {
    pthread_t threads[8];
    long sum = 0;
    for (long n = 0; n < 8; n++) pthread_create(&threads[n], NULL, square, (void *)n);
    for (long n = 0; n < 8; n++) {
        void *answer;
        pthread_join(threads[n], &answer);
        sum += (long)answer;
    }
    signal(SIGALRM, ring);
    ualarm(1000, 0);
    pause();
    char name[] = "XXXXXX", text[9] = "";
    int fd = mkstemp(name);
    if (write(fd, "written", 7) != 7 || pread(fd, text, 8, 0) != 7 || rename(name, "out.txt")) return 1;
    void *big = mmap(NULL, 1 << 24, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (big == MAP_FAILED || madvise(big, 1 << 24, MADV_HUGEPAGE) * errno > EINVAL) return 2;
    printf("%ld %s %d\n", sum, text, rang);
    return 0;
}
