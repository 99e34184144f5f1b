/* A model server that costs next to nothing; with --pubkey it is the autoscaler as well.
 *
 * One thread, one epoll. The response to a POST is described in the first bytes of its body:
 *
 *   "tokens": n       a stream of n tokens ("gap_ms" apart), each with the time of its writing
 *   "response_bytes": n JSON of about n bytes; else a small response
 *
 * usage: model [--pubkey FILE]     prints "port N" and serves 127.0.0.1:N until it is ended
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 65536, KEPT = 16384, SINK = 1 << 20, EVENTS = 256, TICK_MS = 1 };

typedef struct {
    int open;
    char kept[KEPT + 1]; /* header block, and the beginning of the body */
    int kept_length;
    long body_left; /* -1 while the header block is not complete */
    int close_after;
    char head[4096]; /* of the response */
    size_t head_length, head_sent, filler_left;
    long tokens_left; /* of the stream that goes on */
    long long gap, due;
    int streaming; /* index in `streams` + 1 */
} Connection;

static Connection *connections[MAX_CONNECTIONS];
static int streams[MAX_CONNECTIONS], stream_count;
static char sink[SINK], filler[SINK], pubkey[2048];
static int epoll_fd;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void stop_stream(Connection *c) {
    if (!c->streaming) return;
    int last = streams[--stream_count];
    streams[c->streaming - 1] = last;
    connections[last]->streaming = c->streaming;
    c->streaming = 0;
}

static void hang_up(int fd) {
    stop_stream(connections[fd]);
    connections[fd]->open = 0;
    close(fd);
}

static long number_after(const char *text, const char *key, long otherwise) {
    const char *found = strcasestr(text, key);
    return found ? strtol(found + strlen(key), NULL, 10) : otherwise;
}

static void next_request(int fd) {
    Connection *c = connections[fd];
    c->kept_length = 0;
    c->body_left = -1;
    c->head_length = c->head_sent = c->filler_left = 0;
    if (c->close_after) hang_up(fd);
}

/* Sends the rest of a whole response; epoll reports the socket again when it has room. */
static void send_response(int fd) {
    Connection *c = connections[fd];
    while (c->head_sent < c->head_length || c->filler_left) {
        struct iovec parts[2] = {
            {c->head + c->head_sent, c->head_length - c->head_sent},
            {filler, c->filler_left < SINK ? c->filler_left : SINK},
        };
        ssize_t sent = writev(fd, parts, 2);
        if (sent < 0) {
            if (errno != EAGAIN) hang_up(fd);
            return;
        }
        size_t of_head = (size_t)sent < parts[0].iov_len ? (size_t)sent : parts[0].iov_len;
        c->head_sent += of_head;
        c->filler_left -= sent - of_head;
    }
    next_request(fd);
}

static void send_tokens(int fd, long long now) {
    Connection *c = connections[fd];
    char out[1024];
    int length = 0;
    if (c->head_length) {
        memcpy(out, c->head, c->head_length);
        length = c->head_length;
        c->head_length = 0;
    }
    char token[96];
    int size = sprintf(token, "data: {\"t\": %019lld, \"text\": \" token\"}\n\n", now);
    length += sprintf(out + length, "%x\r\n%s\r\n", size, token);
    c->due += c->gap;
    if (--c->tokens_left == 0) length += sprintf(out + length, "0\r\n\r\n");
    if (send(fd, out, length, MSG_NOSIGNAL) != length) {
        hang_up(fd); /* nobody reads: its buffer is full, or it is gone */
    } else if (c->tokens_left == 0) {
        stop_stream(c);
        next_request(fd);
    }
}

static void respond(int fd) {
    Connection *c = connections[fd];
    c->kept[c->kept_length] = 0;
    char *end = strstr(c->kept, "\r\n\r\n");
    const char *body = end + 4;
    *end = 0;
    c->close_after = strcasestr(c->kept, "\r\nconnection: close") != NULL;
    int is_key = strncmp(c->kept, "GET /pubkey/", 12) == 0;
    long tokens = number_after(body, "\"tokens\":", 0);
    if (tokens > 0) {
        c->tokens_left = tokens;
        c->gap = number_after(body, "\"gap_ms\":", 20) * 1000000LL;
        c->due = now_ns();
        c->head_length = sprintf(c->head, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                          "Transfer-Encoding: chunked\r\n\r\n");
        streams[stream_count++] = fd;
        c->streaming = stream_count;
        send_tokens(fd, c->due);
        return;
    }
    const char *text = is_key ? pubkey : "{\"ok\": true, \"text\": \"a response of a model\"}";
    c->filler_left = number_after(body, "\"response_bytes\":", 0); /* blanks after JSON are still JSON */
    c->head_length = snprintf(c->head, sizeof c->head,
                              "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                              "Content-Length: %zu\r\n\r\n%s",
                              strlen(text) + c->filler_left, text);
    send_response(fd);
}

static void read_request(int fd) {
    Connection *c = connections[fd];
    while (c->open) {
        int room = KEPT - c->kept_length;
        ssize_t got = room ? recv(fd, c->kept + c->kept_length, room, 0) : recv(fd, sink, SINK, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN)) return hang_up(fd);
        if (got < 0) return;
        if (room) c->kept_length += got;
        if (c->body_left < 0) {
            c->kept[c->kept_length] = 0;
            char *end = strstr(c->kept, "\r\n\r\n");
            if (!end) {
                if (c->kept_length == KEPT) return hang_up(fd);
                continue;
            }
            c->body_left = number_after(c->kept, "\ncontent-length:", 0);
            got = c->kept_length - (end + 4 - c->kept);
        }
        c->body_left -= got;
        if (c->body_left <= 0) return respond(fd);
    }
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (!connections[fd]) connections[fd] = malloc(sizeof(Connection));
        memset(connections[fd], 0, sizeof(Connection));
        connections[fd]->open = 1;
        connections[fd]->body_left = -1;
        struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLET, {.fd = fd}};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_anywhere(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) {
        perror("listen");
        exit(1);
    }
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    memset(filler, ' ', SINK);
    if (argc == 3 && strcmp(argv[1], "--pubkey") == 0) {
        FILE *file = fopen(argv[2], "r");
        if (!file || fread(pubkey, 1, sizeof pubkey - 1, file) == 0) {
            perror(argv[2]);
            return 1;
        }
        fclose(file);
    }
    int listener = listen_anywhere();
    epoll_fd = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {.fd = listener}}, events[EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS, stream_count ? TICK_MS : -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(listener);
                continue;
            }
            Connection *c = connections[fd];
            if (c->open && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_request(fd);
            if (c->open && c->head_length && !c->streaming) send_response(fd);
        }
        long long now = now_ns();
        for (int i = stream_count; i-- > 0;)
            if (i < stream_count && connections[streams[i]]->due <= now) send_tokens(streams[i], now);
    }
}
