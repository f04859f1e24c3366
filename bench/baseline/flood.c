/* flood PORT FILE LENGTH RATE ADDRESSES: until SIGTERM, messages of LENGTH bytes from FILE in turn to 127.0.0.1:PORT, RATE a
 * second, from ADDRESSES source addresses (127.128.0.0 and on) by one socket, which takes no answer. Prints what it sent. */
#include "common.h"

enum { FIRST_SOURCE = 0x7f800000 };

static char *read_all(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    fseek(file, 0, SEEK_END);
    *size = ftell(file);
    rewind(file);
    char *found = malloc(*size + 1);
    if (!found || fread(found, 1, *size, file) != *size) fail(path);
    fclose(file);
    return found;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    size_t size, length = atoi(argv[3]);
    char *messages = read_all(argv[2], &size);
    double rate = atof(argv[4]);
    uint64_t addresses = atoi(argv[5]), count = length ? size / length : 0, sent = 0, refused = 0;
    if (!count || !addresses) return 2;
    int fd = open_socket(INADDR_ANY, 0), least = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &least, sizeof least); /* whoever forges his address hears nothing */
    struct sockaddr_in to = endpoint(INADDR_LOOPBACK, atoi(argv[1]));
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(struct in_pktinfo))] = {0};
    struct iovec part = {.iov_len = length};
    struct msghdr message = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &part, .msg_iovlen = 1,
                             .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo)), .cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO};
    struct in_pktinfo *from = (struct in_pktinfo *)CMSG_DATA(head);
    begin();
    printf("ready\n");
    fflush(stdout);
    double start = seconds(), now = start;
    for (; !stopping; now = seconds()) {
        uint64_t due = (uint64_t)((now - start) * rate);
        if (due <= sent + refused) {
            struct timespec pause = {.tv_nsec = 200000};
            nanosleep(&pause, NULL);
        }
        while (sent + refused < due && !stopping) {
            uint64_t number = sent + refused;
            from->ipi_spec_dst.s_addr = htonl(FIRST_SOURCE + number % addresses);
            part.iov_base = messages + number % count * length;
            if (sendmsg(fd, &message, 0) < 0) refused++;
            else sent++;
        }
    }
    printf("{\"sent\": %lu, \"refused\": %lu, \"seconds\": %.6f}\n", sent, refused, now - start);
    return 0;
}
