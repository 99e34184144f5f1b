/* A load generator that costs little: N clients, each sends its next request when the response has ended.
 *
 * usage: load --port N --path /route --body FILE --clients N --seconds S
 *             [--ramp S] [--new-connections] [--tls]
 *
 * Each run of ten @ in the first bytes of the body becomes a number that no other request has. The clients
 * begin spread over --ramp seconds. Tokens of the stub model server carry the time of their writing, which the
 * clock of this machine turns into the time they travelled. Prints one JSON object; times in milliseconds.
 *
 * All clients connect at once, and their first requests wait for that burst to be over. So on kept connections
 * the first request of each, which begins with its connect, is counted by itself.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
#endif

enum { PREFIX = 8192, HEAD = 16384, BUFFER = 1 << 18, EVENTS = 256, MARK = 10 };
enum { WAITING, CONNECTING, SENDING, HEADING, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER };
enum { AGAIN = -1, BROKEN = -2 };
static const long long SECOND = 1000000000LL, RETRY = 50000000LL, PATIENCE = 60;

typedef struct {
    float *values;
    size_t count, room;
} Samples;

typedef struct {
    int fd, state, keeps, status, is_open, is_known;
    long long due, began;
    char prefix[PREFIX]; /* of this client's request: header block, and the beginning of the body */
    size_t prefix_length, sent;
    char head[HEAD + 1];
    size_t head_length;
    long long left; /* of the body, or of a chunk */
    int chunk_digits, tokens;
    char line[64]; /* the end of what came, for a time cut in two */
    size_t line_length;
#ifdef WITH_TLS
    SSL *tls;
#endif
} Client;

static struct {
    int port, clients, fresh, tls;
    double seconds, ramp;
    const char *path, *body;
} options = {.clients = 1, .seconds = 1, .path = "/"};

static Samples latencies, first_requests, first_tokens, token_times;
static long long requests, errors, tokens, received, number = 1000000000LL;
static char *body, buffer[BUFFER];
static size_t body_length, body_in_prefix;
static int epoll_fd;
static long long last_response;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void add(Samples *samples, long long ns) {
    if (samples->count == samples->room) {
        samples->room = samples->room ? samples->room * 2 : 4096;
        samples->values = realloc(samples->values, samples->room * sizeof(float));
    }
    samples->values[samples->count++] = ns / 1e6;
}

/* -- the connection ---------------------------------------------------------------------------------- */

#ifdef WITH_TLS
static SSL_CTX *tls_context;

static ssize_t tls_result(Client *c, int result) {
    if (result > 0) return result;
    int error = SSL_get_error(c->tls, result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return AGAIN;
    return error == SSL_ERROR_ZERO_RETURN ? 0 : BROKEN;
}
#endif

static ssize_t receive(Client *c) {
#ifdef WITH_TLS
    if (c->tls) return tls_result(c, SSL_read(c->tls, buffer, BUFFER));
#endif
    ssize_t got = recv(c->fd, buffer, BUFFER, 0);
    return got >= 0 ? got : errno == EAGAIN ? AGAIN : BROKEN;
}

static ssize_t transmit(Client *c, const char *data, size_t length) {
#ifdef WITH_TLS
    if (c->tls) return tls_result(c, SSL_write(c->tls, data, length > BUFFER ? BUFFER : length));
#endif
    ssize_t sent = send(c->fd, data, length, MSG_NOSIGNAL);
    return sent >= 0 ? sent : errno == EAGAIN ? AGAIN : BROKEN;
}

static void disconnect(Client *c) {
#ifdef WITH_TLS
    if (c->tls) SSL_free(c->tls);
    c->tls = NULL;
#endif
    if (c->is_open) close(c->fd);
    c->is_open = c->is_known = 0;
}

static int connect_client(Client *c) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(options.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    c->is_open = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLET, {.ptr = c}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
#ifdef WITH_TLS
    if (options.tls) {
        c->tls = SSL_new(tls_context);
        SSL_set_fd(c->tls, c->fd);
        SSL_set_connect_state(c->tls);
    }
#endif
    return connect(c->fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EINPROGRESS;
}

/* -- one request ------------------------------------------------------------------------------------- */

static void fail(Client *c) {
    errors++;
    disconnect(c);
    c->state = WAITING;
    c->due = now_ns() + RETRY;
}

static void begin(Client *c) {
    c->began = now_ns();
    c->sent = c->head_length = c->line_length = 0;
    c->tokens = 0;
    number++;
    char digits[32], *mark = c->prefix;
    sprintf(digits, "%lld", number);
    if (!c->prefix_length) {
        c->prefix_length = sprintf(c->prefix,
                                   "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: load\r\n"
                                   "Accept: */*\r\nContent-Type: application/json\r\n"
                                   "%sContent-Length: %zu\r\n\r\n",
                                   options.path, options.port, options.fresh ? "Connection: close\r\n" : "",
                                   body_length);
        memcpy(c->prefix + c->prefix_length, body, body_in_prefix);
        c->prefix_length += body_in_prefix;
        /* From now on the numbers are found by the name of their field. */
        for (; (mark = memmem(mark, c->prefix + c->prefix_length - mark, "@@@@@@@@@@", MARK)); mark += MARK)
            memcpy(mark, digits, MARK);
    } else {
        while ((mark = memmem(mark, c->prefix + c->prefix_length - mark, "req", 3))) {
            mark += 3;
            char *value = memchr(mark, ':', 16);
            if (value && strspn(value + 2, "0123456789") == MARK) memcpy(value + 2, digits, MARK);
        }
    }
    if (!c->is_open && !connect_client(c)) return fail(c);
    c->state = SENDING;
}

static void finish(Client *c) {
    long long now = last_response = now_ns();
    requests++;
    tokens += c->tokens;
    add(c->is_known || options.fresh ? &latencies : &first_requests, now - c->began);
    c->is_known = 1;
    if (options.fresh || !c->keeps) disconnect(c);
    c->state = WAITING;
    c->due = now;
}

/* The times in a piece of a body. */
static void read_tokens(Client *c, const char *data, size_t length) {
    long long now = now_ns();
    while (length) {
        size_t taken = sizeof c->line - c->line_length < length ? sizeof c->line - c->line_length : length;
        memcpy(c->line + c->line_length, data, taken);
        c->line_length += taken, data += taken, length -= taken;
        char *end;
        while ((end = memchr(c->line, '\n', c->line_length))) {
            if (end - c->line > 30 && memcmp(c->line, "data: {\"t\": ", 12) == 0) {
                long long travelled = now - strtoll(c->line + 12, NULL, 10);
                if (c->tokens++ == 0) add(&first_tokens, now - c->began);
                add(&token_times, travelled);
            }
            c->line_length -= end + 1 - c->line;
            memmove(c->line, end + 1, c->line_length);
        }
        if (c->line_length == sizeof c->line) c->line_length = 0; /* no line of a token */
    }
}

static int read_head(Client *c) {
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->status = atoi(c->head + 9);
    c->keeps = !strcasestr(c->head, "\r\nconnection: close");
    c->left = length ? atoll(length + 17) : -1;
    c->state = strcasestr(c->head, "\r\ntransfer-encoding: chunked") ? CHUNK_SIZE : BODY;
    c->chunk_digits = 0;
    if (c->state == CHUNK_SIZE) c->left = 0;
    return c->status == 200;
}

static int hexadecimal(char digit) {
    return digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10;
}

/* Consumes received data; 0 if the response is malformed. */
static int take(Client *c, const char *data, size_t length) {
    received += length;
    while (length && c->state != WAITING) {
        size_t taken = 1;
        if (c->state == HEADING) {
            taken = length < HEAD - c->head_length ? length : HEAD - c->head_length;
            size_t before = c->head_length;
            memcpy(c->head + before, data, taken);
            c->head_length += taken;
            c->head[c->head_length] = 0;
            char *end = strstr(c->head, "\r\n\r\n");
            if (!end && c->head_length == HEAD) return 0;
            if (end) {
                taken = end + 4 - c->head - before;
                end[2] = 0;
                if (!read_head(c)) return 0;
                if (c->state == BODY && c->left == 0) finish(c);
            }
        } else if (c->state == BODY || c->state == CHUNK) {
            taken = c->left >= 0 && (size_t)c->left < length ? (size_t)c->left : length;
            read_tokens(c, data, taken);
            if (c->left >= 0) c->left -= taken;
            if (c->left == 0 && c->state == BODY) finish(c);
            else if (c->left == 0) c->state = CHUNK_END;
        } else if (c->state == CHUNK_SIZE) {
            if (*data == '\n') {
                c->state = c->left ? CHUNK : TRAILER;
            } else if (*data != '\r') {
                c->left = c->left * 16 + hexadecimal(*data);
            }
        } else if (*data == '\n') { /* the end of a chunk, or of the last one's */
            if (c->state == TRAILER) finish(c);
            else c->state = CHUNK_SIZE, c->left = 0;
        }
        data += taken, length -= taken;
    }
    return 1;
}

static int send_request(Client *c) {
    size_t total = c->prefix_length + body_length - body_in_prefix;
    while (c->sent < total) {
        int in_prefix = c->sent < c->prefix_length;
        const char *data = in_prefix ? c->prefix + c->sent : body + body_in_prefix + c->sent - c->prefix_length;
        ssize_t sent = transmit(c, data, in_prefix ? c->prefix_length - c->sent : total - c->sent);
        if (sent == AGAIN) return 1;
        if (sent <= 0) return 0;
        c->sent += sent;
    }
    c->state = HEADING;
    return 1;
}

static void go_on(Client *c) {
    if (c->state == SENDING && !send_request(c)) return fail(c);
    while (c->is_open && c->state > SENDING) {
        ssize_t got = receive(c);
        if (got == AGAIN) return;
        if (got == 0 && c->state == BODY && c->left < 0) return finish(c);
        if (got <= 0 || !take(c, buffer, got)) return fail(c);
    }
}

/* -- the run ----------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, Samples *samples) {
    qsort(samples->values, samples->count, sizeof(float), compare);
    if (!samples->count) return;
    printf(", \"%s_p50\": %.3f, \"%s_p99\": %.3f", name, samples->values[samples->count / 2], name,
           samples->values[samples->count * 99 / 100]);
}

static void read_body(void) {
    FILE *file = fopen(options.body, "rb");
    struct stat status;
    if (!file || fstat(fileno(file), &status)) {
        perror(options.body);
        exit(2);
    }
    body_length = status.st_size;
    body = malloc(body_length + 1);
    if (fread(body, 1, body_length, file) != body_length) exit(2);
    fclose(file);
    body_in_prefix = body_length < PREFIX / 2 ? body_length : PREFIX / 2;
}

static void read_options(int argc, char **argv) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'},    {"path", 1, 0, 'P'}, {"body", 1, 0, 'b'},            {"clients", 1, 0, 'c'},
        {"seconds", 1, 0, 's'}, {"ramp", 1, 0, 'r'}, {"new-connections", 0, 0, 'n'}, {"tls", 0, 0, 't'},
        {0, 0, 0, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'P': options.path = optarg; break;
        case 'b': options.body = optarg; break;
        case 'c': options.clients = atoi(optarg); break;
        case 's': options.seconds = atof(optarg); break;
        case 'r': options.ramp = atof(optarg); break;
        case 'n': options.fresh = 1; break;
        case 't': options.tls = 1; break;
        default: exit(2);
        }
    }
    if (!options.body || !options.port) {
        fprintf(stderr, "load: --port and --body are needed\n");
        exit(2);
    }
    read_body();
#ifdef WITH_TLS
    tls_context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
#else
    if (options.tls) {
        fprintf(stderr, "load: built without TLS\n");
        exit(2);
    }
#endif
}

/* Begins what is due; how many clients are at work. */
static int begin_due(Client *clients, long long now, long long end) {
    int at_work = 0;
    for (int i = 0; i < options.clients; i++) {
        Client *c = &clients[i];
        if (c->state == WAITING && c->due <= now && now < end) {
            begin(c);
            go_on(c);
        }
        at_work += c->state != WAITING;
    }
    return at_work;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    read_options(argc, argv);
    epoll_fd = epoll_create1(0);
    Client *clients = calloc(options.clients, sizeof(Client));
    long long start = now_ns(), end = start + options.seconds * SECOND;
    last_response = start;
    for (int i = 0; i < options.clients; i++)
        clients[i].due = start + options.ramp * SECOND * i / options.clients;
    struct epoll_event events[EVENTS];
    for (;;) {
        long long now = now_ns();
        int at_work = begin_due(clients, now, end);
        if (now >= end && !at_work) break;
        if (now >= end + PATIENCE * SECOND) {
            errors += at_work; /* no response */
            break;
        }
        int count = epoll_wait(epoll_fd, events, EVENTS, 1);
        for (int i = 0; i < count; i++) {
            Client *c = events[i].data.ptr;
            if (c->is_open) go_on(c);
            if (c->state == WAITING && c->due <= (now = now_ns()) && now < end) {
                begin(c);
                go_on(c);
            }
        }
    }
    printf("{\"requests\": %lld, \"errors\": %lld, \"seconds\": %.6f, \"tokens\": %lld, \"bytes\": %lld",
           requests, errors, (last_response - start) / 1e9, tokens, received);
    print_times("latency", &latencies);
    print_times("first_request", &first_requests);
    print_times("first_token", &first_tokens);
    print_times("token", &token_times);
    printf("}\n");
}
