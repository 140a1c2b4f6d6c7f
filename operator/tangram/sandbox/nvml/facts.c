/* The facts: reading their file, the lock around them, and queries that are answered by one of them. */
#define _GNU_SOURCE
#include "facts.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct { char *key, *value; } Fact;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Fact *facts;
static size_t fact_count;
static char *file_text;
static struct stat file_seen;
static int users;               /* nvmlInit calls less nvmlShutdown calls */
static long long driver_loaded; /* the driver's load that the users have initialised; a later one disowns them */
static Device devices[MOST_GPUS][MOST_SLICES + 1];

static int by_key(const void *one, const void *other) {
    return strcmp(((const Fact *)one)->key, ((const Fact *)other)->key);
}

static int parse(char *text) {
    size_t lines = 1;
    for (char *at = text; *at; at++) lines += *at == '\n';
    Fact *found = calloc(lines, sizeof *found);
    if (!found) return NO_MEMORY;
    size_t count = 0;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
        char *space = strchr(line, ' ');
        if (!space) continue;
        *space = 0;
        found[count++] = (Fact){line, space + 1};
    }
    qsort(found, count, sizeof *found, by_key);
    free(facts);
    free(file_text);
    facts = found, fact_count = count, file_text = text;
    return OK;
}

/* Read the file where it has changed; writers replace it as a whole, so it is never half written. */
static int refresh(void) {
    const char *path = getenv("TANGRAM_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    struct stat now;
    if (!file || fstat(fileno(file), &now)) {
        if (file) fclose(file);
        return DRIVER_NOT_LOADED;
    }
    int same = facts && now.st_ino == file_seen.st_ino && now.st_dev == file_seen.st_dev &&
               now.st_mtim.tv_sec == file_seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == file_seen.st_mtim.tv_nsec;
    int result = OK;
    if (!same) {
        char *text = calloc(1, now.st_size + 1);
        if (!text) result = NO_MEMORY;
        else if (fread(text, 1, now.st_size, file) != (size_t)now.st_size) result = OPERATING_SYSTEM;
        else result = parse(text);
        if (result) free(text);
        else file_seen = now;
    }
    fclose(file);
    return result;
}

const char *fact(const char *format, ...) {
    char key[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(key, sizeof key, format, arguments);
    va_end(arguments);
    Fact wanted = {key, NULL}, *found = bsearch(&wanted, facts, fact_count, sizeof wanted, by_key);
    return found ? found->value : NULL;
}

int error_of(const char *value) {
    if (!value) return NOT_SUPPORTED;
    return *value == '!' ? atoi(value + 1) : OK;
}

long long number_of(const char *value) { return value && *value != '!' ? atoll(value) : 0; }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    int result = refresh();
    if (!result && fact("failure")) result = error_of(fact("failure"));
    if (!result) {
        users++;
        driver_loaded = number_of(fact("loads"));
    }
    return leave(result);
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlInit(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    int result = users ? OK : UNINITIALIZED;
    users -= users > 0;
    return leave(result);
}

/* Every query: hold the lock, see the newest facts, refuse what was not initialised since the driver's last load. */
int enter(void) {
    pthread_mutex_lock(&lock);
    if (!users) return UNINITIALIZED;
    int result = refresh();
    if (!result && fact("failure")) result = error_of(fact("failure"));
    if (!result && number_of(fact("loads")) != driver_loaded) result = UNINITIALIZED;
    return result;
}

int leave(int result) {
    pthread_mutex_unlock(&lock);
    return result;
}

int is_there(int gpu) { return gpu >= 0 && gpu < MOST_GPUS && fact("gpu.%d.uuid", gpu) != NULL; }

int lost(int gpu) { return fact("gpu.%d.error", gpu) ? error_of(fact("gpu.%d.error", gpu)) : OK; }

int enter_device(const Device *device) {
    int result = enter();
    if (result) return result;
    const Device *first = &devices[0][0], *end = first + MOST_GPUS * (MOST_SLICES + 1);
    if (device < first || device >= end || !is_there(device->gpu)) return INVALID_ARGUMENT;
    return lost(device->gpu);
}

const char *device_fact(const Device *device, const char *name) {
    return device->slice < 0 ? fact("gpu.%d.%s", device->gpu, name)
                             : fact("gpu.%d.slice.%d.%s", device->gpu, device->slice, name);
}

int give_text(const char *value, char *out, unsigned size) {
    int result = error_of(value);
    if (result) return result;
    if (!out || strlen(value) >= size) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return OK;
}

int give_handle(int gpu, int slice, Device **out) {
    Device *device = &devices[gpu][slice + 1];
    *device = (Device){gpu, slice};
    *out = device;
    return OK;
}

int text_query(Device *device, const char *name, char *out, unsigned size) {
    int result = enter_device(device);
    return leave(result ? result : give_text(device_fact(device, name), out, size));
}

int number_query(Device *device, const char *name, long long *out) {
    int result = enter_device(device);
    const char *value = result ? NULL : device_fact(device, name);
    if (!result) result = error_of(value);
    if (!result) *out = number_of(value);
    return leave(result);
}

int unsigned_query(Device *device, const char *name, unsigned *out) {
    long long value = 0;
    int result = number_query(device, name, &value);
    if (!result) *out = (unsigned)value;
    return result;
}

int tuple_query(Device *device, const char *name, int wanted, const char *format, ...) {
    int result = enter_device(device);
    const char *value = result ? NULL : device_fact(device, name);
    if (!result) result = error_of(value);
    if (!result) {
        va_list out;
        va_start(out, format);
        if (vsscanf(value, format, out) != wanted) result = OPERATING_SYSTEM;
        va_end(out);
    }
    return leave(result);
}

