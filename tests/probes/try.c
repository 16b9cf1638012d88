/* Tries one thing at a time and says what the kernel answered.
 *
 *   try calls FILE     a system call per line, "LABEL NUMBER ARGUMENT…"; prints "LABEL ANSWER"
 *   try calls32 FILE   the same through int 0x80, the door of 32-bit programs
 *   try scan HEX       looks for a secret, given with every bit flipped, in its own memory
 *   try repeat N CMD…  executes CMD with the last argument's place taken by N, N-1, … (exec churn)
 *   try identity       says who it is: "uid REAL EFFECTIVE SAVED", "gid …", "caps PERMITTED" (hex)
 *
 * An ANSWER is 0 for success, an errno, or -N for death by signal N. An ARGUMENT is a number, or
 *   buf       a page of zeros          bad       an address that is never mapped
 *   text:T    the address of T         ns:NAME   a descriptor of /proc/self/ns/NAME
 *   clone:F   a struct clone_args with these flags
 * Each call is made in a process of its own, which a timer ends if it blocks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS 8
#define PATIENCE_MS 1500

struct answer {
    int made;
    int error;
};

static struct answer *answer;
static char *low_page; /* below 4 GiB, where a 32-bit call can point to it */

static void *get_memory(size_t size, int flags)
{
    void *found = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | flags, -1, 0);
    if (found == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return found;
}

static long parse_argument(const char *word)
{
    char path[64];

    if (strcmp(word, "buf") == 0)
        return (long)low_page;
    if (strcmp(word, "bad") == 0)
        return 16;
    if (strncmp(word, "text:", 5) == 0)
        return (long)strcpy(low_page + PAGE / 2, word + 5);
    if (strncmp(word, "clone:", 6) == 0) {
        uint64_t args[8] = {strtoull(word + 6, NULL, 0), 0, 0, 0, SIGCHLD, 0, 0, 0};
        return (long)memcpy(low_page, args, sizeof(args));
    }
    if (strncmp(word, "ns:", 3) == 0) {
        snprintf(path, sizeof(path), "/proc/self/ns/%s", word + 3);
        return open(path, O_RDONLY | O_CLOEXEC);
    }
    return (long)strtoull(word, NULL, 0);
}

static long call_native(const long *a)
{
    return syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
}

static long call_32(const long *a)
{
#ifdef __x86_64__
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(a[0]), "b"(a[1]), "c"(a[2]), "d"(a[3]), "S"(a[4]), "D"(a[5])
                     : "memory", "r8", "r9", "r10", "r11");
    if ((int)result < 0 && (int)result > -4096) {
        errno = -(int)result;
        return -1;
    }
    return result;
#else
    (void)a;
    errno = ENOEXEC;
    return -1;
#endif
}

static void make_call(const long *numbers, long (*door)(const long *))
{
    struct itimerval patience = {{0, 0}, {PATIENCE_MS / 1000, PATIENCE_MS % 1000 * 1000}};
    long self = syscall(SYS_gettid), result;

    setitimer(ITIMER_REAL, &patience, NULL);
    result = door(numbers);
    if (syscall(SYS_gettid) != self) /* the child of the fork or clone that was tried */
        syscall(SYS_exit_group, 0);
    answer->error = result == -1 ? errno : 0;
    answer->made = 1;
    _exit(0);
}

static int try_line(char *line, long (*door)(const long *))
{
    long numbers[WORDS] = {0};
    char *label = strtok(line, " "), *word;
    int count = 0, status;
    pid_t pid;

    memset(low_page, 0, PAGE);
    while ((word = strtok(NULL, " ")) != NULL && count < WORDS)
        numbers[count++] = parse_argument(word);
    memset(answer, 0, sizeof(*answer));
    pid = fork();
    if (pid < 0) {
        perror("fork");
        return 2;
    }
    if (pid == 0)
        make_call(numbers, door);
    waitpid(pid, &status, 0);
    if (answer->made)
        printf("%s %d\n", label, answer->error);
    else
        printf("%s %d\n", label, WIFSIGNALED(status) ? -WTERMSIG(status) : 0);
    fflush(stdout);
    return 0;
}

static int try_calls(const char *path, long (*door)(const long *))
{
    char line[1024];
    FILE *table = fopen(path, "re");

    if (table == NULL) {
        perror(path);
        return 2;
    }
    answer = get_memory(PAGE, 0);
#ifdef __x86_64__
    low_page = get_memory(PAGE, MAP_32BIT);
#else
    low_page = get_memory(PAGE, 0);
#endif
    while (fgets(line, sizeof(line), table) != NULL) {
        line[strcspn(line, "\n")] = 0;
        if (line[0] != 0 && try_line(line, door) != 0)
            return 2;
    }
    return 0;
}

static size_t parse_secret(const char *hex, unsigned char *secret, size_t most)
{
    size_t size = strlen(hex) / 2;

    if (size > most)
        size = most;
    for (size_t i = 0; i < size; i++) {
        unsigned int byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        secret[i] = (unsigned char)byte;
    }
    return size;
}

/* The needle stays flipped, so that it isn't found in its own place. */
static int is_at(const unsigned char *place, const unsigned char *flipped, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if ((place[i] ^ flipped[i]) != 0xff)
            return 0;
    return 1;
}

static int scan(const char *hex)
{
    unsigned char flipped[64];
    size_t size = parse_secret(hex, flipped, sizeof(flipped)), found = 0, seen = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    unsigned long from, to;
    char line[512];

    if (maps == NULL || memory < 0) {
        perror("/proc/self");
        return 2;
    }
    while (fgets(line, sizeof(line), maps) != NULL) {
        sscanf(line, "%lx-%lx", &from, &to);
        if (strstr(line, "[vsyscall]") != NULL || strstr(line, "[vvar") != NULL)
            continue;
        unsigned char *copy = malloc(to - from);
        ssize_t got = copy == NULL ? -1 : pread(memory, copy, to - from, (off_t)from);
        for (ssize_t i = 0; i + (ssize_t)size <= got; i++)
            found += is_at(copy + i, flipped, size);
        seen += got > 0 ? (size_t)got : 0;
        free(copy);
    }
    printf("found %zu in %zu\n", found, seen);
    return 0;
}

static int repeat(int left, char **argv)
{
    char number[16];

    if (left <= 0) {
        execv(argv[3], argv + 3);
        perror(argv[3]);
        return 2;
    }
    snprintf(number, sizeof(number), "%d", left - 1);
    argv[2] = number;
    execv(argv[0], argv);
    perror(argv[0]);
    return 2;
}

static int tell_identity(void)
{
    uid_t uids[3];
    gid_t gids[3];
    uint32_t head[2] = {0x20080522, 0}, caps[6] = {0}; /* capget(2), version 3 */

    getresuid(&uids[0], &uids[1], &uids[2]);
    getresgid(&gids[0], &gids[1], &gids[2]);
    if (syscall(SYS_capget, head, caps) != 0) {
        perror("capget");
        return 2;
    }
    printf("uid %u %u %u\n", uids[0], uids[1], uids[2]);
    printf("gid %u %u %u\n", gids[0], gids[1], gids[2]);
    printf("caps %08x%08x\n", caps[4], caps[1]);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "calls") == 0)
        return try_calls(argv[2], call_native);
    if (argc == 3 && strcmp(argv[1], "calls32") == 0)
        return try_calls(argv[2], call_32);
    if (argc == 3 && strcmp(argv[1], "scan") == 0)
        return scan(argv[2]);
    if (argc >= 4 && strcmp(argv[1], "repeat") == 0)
        return repeat(atoi(argv[2]), argv);
    if (argc == 2 && strcmp(argv[1], "identity") == 0)
        return tell_identity();
    fprintf(stderr, "usage: try calls|calls32 FILE | scan HEX | repeat N COMMAND… | identity\n");
    return 2;
}
