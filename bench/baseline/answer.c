/* answer PORT: what an echo costs at least. Sends every datagram that comes to 127.0.0.1:PORT back, one at a time, until
 * SIGTERM. */
#include "common.h"

int main(int argc, char **argv) {
    static char data[LARGEST];
    if (argc != 2) return 2;
    begin();
    int fd = open_socket(INADDR_LOOPBACK, atoi(argv[1]));
    puts("ready");
    fflush(stdout);
    while (!stopping) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t size = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
        if (size >= 0) sendto(fd, data, size, 0, (struct sockaddr *)&from, length);
    }
    return 0;
}
