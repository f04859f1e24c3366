/* sink PORT NUMBERS OFFLOAD: counts datagrams to any address of this machine at PORT until SIGTERM. NUMBERS: datagrams are
 * numbered from 0 to below this; one that comes again counts in `total` and not in `unique`. OFFLOAD 1: takes runs of the
 * kernel's receive offload whole (UDP_GRO), as a machine behind a real network would not see them cut up by the sender. */
#include "common.h"

enum { BATCH = 64, ROOM = 65536, HEAD = 64 };

static uint64_t numbers, total, unique, bytes, strange;
static uint8_t *seen;

static void take(const char *data, size_t length) {
    uint64_t number = numbers;
    if (length >= NUMBER) memcpy(&number, data, NUMBER);
    total++;
    bytes += length;
    if (number >= numbers) strange++;
    else if (!seen[number]) { seen[number] = 1; unique++; }
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    numbers = strtoull(argv[2], NULL, 10);
    int offload = atoi(argv[3]), room = offload ? ROOM : HEAD, large = 256 << 20;
    seen = calloc(numbers, 1);
    int fd = open_socket(INADDR_ANY, atoi(argv[1]));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof large); /* where it may: it must not be the one that loses */
    if (offload && setsockopt(fd, IPPROTO_UDP, UDP_GRO, &offload, sizeof offload) < 0) fail("UDP_GRO");
    begin();

    char *data = malloc((size_t)BATCH * room);
    static _Alignas(struct cmsghdr) char control[BATCH][CMSG_SPACE(sizeof(int))];
    static struct mmsghdr batch[BATCH];
    static struct iovec parts[BATCH];
    double first = 0, last = 0;
    printf("ready\n");
    fflush(stdout);
    while (!stopping) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){data + (size_t)i * room, room};
            batch[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1, .msg_control = control[i],
                                               .msg_controllen = offload ? sizeof control[i] : 0};
        }
        int count = recvmmsg(fd, batch, BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL);
        if (count <= 0) { /* looks again soon: to wake a sleeper would cost the sender, as no remote machine does */
            struct timespec pause = {.tv_nsec = 200000};
            nanosleep(&pause, NULL);
            continue;
        }
        last = seconds();
        if (first == 0) first = last;
        for (int i = 0; i < count; i++) {
            size_t length = batch[i].msg_len, step = length ? length : 1;
            struct cmsghdr *found = CMSG_FIRSTHDR(&batch[i].msg_hdr);
            if (found && found->cmsg_level == IPPROTO_UDP && found->cmsg_type == UDP_GRO) step = *(int *)CMSG_DATA(found);
            const char *run = parts[i].iov_base;
            for (size_t at = 0; at == 0 || at < length; at += step) take(run + at, length - at < step ? length - at : step);
        }
    }
    printf("{\"total\": %lu, \"unique\": %lu, \"strange\": %lu, \"bytes\": %lu, \"seconds\": %.6f}\n", total, unique, strange,
           bytes, last - first);
    return 0;
}
