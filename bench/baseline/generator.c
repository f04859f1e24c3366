/* generator PORT SIZE SECONDS RATE SOCKETS: numbered datagrams to 127.0.0.1:PORT, one after the other from each of SOCKETS
 * source ports; RATE a second, 0: as fast as it can. Prints what it sent. */
#include "common.h"

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    int port = atoi(argv[1]), size = atoi(argv[2]), count = atoi(argv[5]);
    double duration = atof(argv[3]), rate = atof(argv[4]);
    static char payload[LARGEST];
    int *sockets = calloc(count, sizeof *sockets);
    struct sockaddr_in to = endpoint(INADDR_LOOPBACK, port);
    begin();
    for (int i = 0; i < count; i++) {
        sockets[i] = open_socket(INADDR_LOOPBACK, 0);
        if (connect(sockets[i], (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
    }
    memset(payload, 'x', sizeof payload);
    uint64_t sent = 0, refused = 0;
    double start = seconds(), now = start;
    while (!stopping && (now = seconds()) - start < duration) {
        uint64_t due = rate > 0 ? (uint64_t)((now - start) * rate) : sent + 64;
        if (due <= sent) {
            struct timespec pause = {.tv_nsec = 200000};
            nanosleep(&pause, NULL);
        }
        for (; sent < due; sent++) {
            memcpy(payload, &sent, NUMBER);
            if (send(sockets[sent % count], payload, size, 0) < 0) refused++;
        }
    }
    printf("{\"sent\": %lu, \"refused\": %lu, \"seconds\": %.6f}\n", sent - refused, refused, now - start);
    return 0;
}
