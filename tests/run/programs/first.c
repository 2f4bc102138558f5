/* Looks up names that nobody has asked for yet and connects; prints the nanoseconds that each took. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/socket.h>

static long long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

int main(int count, char **words) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    int rounds = count == 3 ? atoi(words[2]) : 0;
    for (int round = 0; round < rounds; round++) {
        char name[128];
        snprintf(name, sizeof name, "%s%d.many.example", words[1], round);
        long long begun = now();
        if (getaddrinfo(name, "80", &hints, &found)) return 1;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, found->ai_addr, found->ai_addrlen)) return 2;
        printf("%lld\n", now() - begun);
        close(fd);
        freeaddrinfo(found);
    }
    return 0;
}
