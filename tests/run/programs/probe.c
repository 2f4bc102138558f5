/* Looks a name up, connects to each address, asks for a page. Exits 0 with the page, 1 with the error. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>
#include <unistd.h>
#include <sys/socket.h>

int main(int count, char **words) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *one;
    int error = count == 3 ? getaddrinfo(words[1], words[2], &hints, &found) : EAI_FAIL;
    if (error) {
        printf("lookup: %s\n", gai_strerror(error));
        return 1;
    }
    for (one = found; one; one = one->ai_next) {
        int fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
        char page[512];
        ssize_t length;
        if (fd < 0 || connect(fd, one->ai_addr, one->ai_addrlen)) {
            printf("connect: %s\n", strerror(errno));
            continue;
        }
        if (write(fd, "GET / HTTP/1.0\r\n\r\n", 18) != 18) return 1;
        while ((length = read(fd, page, sizeof page)) > 0) fwrite(page, 1, length, stdout);
        return 0;
    }
    return 1;
}
