/* Honest: the start below N whose Collatz sequence is the longest. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    long limit = argc > 1 ? atol(argv[1]) : 1000000, best = 1, longest = 1;

    for (long start = 1; start < limit; start++) {
        long length = 1;
        for (unsigned long n = start; n != 1; length++)
            n = n % 2 ? 3 * n + 1 : n / 2;
        if (length > longest) {
            longest = length;
            best = start;
        }
    }
    printf("%ld (%ld steps)\n", best, longest);
    return 0;
}
