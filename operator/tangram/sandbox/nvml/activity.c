/* What happens on GPUs: processes and events. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "facts.h"

enum { POLL_NANOSECONDS = 50000000 };

typedef struct { unsigned seen[MOST_GPUS]; uint64_t types[MOST_GPUS]; } EventSet;

/* ---- processes: "PID MIB SM MEMORY KIND", where KIND is compute, mps or graphics ---- */

typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned pid; unsigned long long time; unsigned sm, memory, encoder, decoder; } Sample;
typedef struct { unsigned pid, sm, memory; unsigned long long mib; char kind[16]; } Found;

static int process_at(const Device *device, unsigned number, Found *out) {
    char name[32];
    snprintf(name, sizeof name, "process.%u", number);
    const char *value = device_fact(device, name);
    return value && sscanf(value, "%u %llu %u %u %15s", &out->pid, &out->mib, &out->sm, &out->memory, out->kind) == 5;
}

static int is_listed(const Found *process, const char *kind) { /* a client of MPS is a compute process as well */
    return !strcmp(process->kind, kind) || (!strcmp(kind, "compute") && !strcmp(process->kind, "mps"));
}

static int process_query(Device *device, const char *kind, unsigned *count, Process *out) {
    int result = enter_device(device);
    Found process;
    unsigned found = 0;
    for (unsigned number = 0; !result && process_at(device, number, &process); number++) {
        if (!is_listed(&process, kind)) continue;
        if (out && found < *count) out[found] = (Process){process.pid, process.mib << 20, ~0u, ~0u};
        found++;
    }
    if (!result && found > (out ? *count : 0)) result = INSUFFICIENT_SIZE;
    if (!result || result == INSUFFICIENT_SIZE) *count = found;
    return leave(result);
}

#define PROCESSES(FUNCTION, KIND) \
    int FUNCTION(Device *device, unsigned *count, Process *out) { return process_query(device, KIND, count, out); }

PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "compute")
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, "compute")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, "mps")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")

int nvmlDeviceGetProcessUtilization(Device *device, Sample *out, unsigned *count, unsigned long long since) {
    int result = enter_device(device);
    if (!result && fact("gpu.%d.no_samples", device->gpu)) result = NOT_SUPPORTED;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    unsigned long long time = now.tv_sec * 1000000ull + now.tv_nsec / 1000;
    Found process;
    unsigned found = 0;
    for (; !result && time > since && process_at(device, found, &process); found++)
        if (out && found < *count)
            out[found] = (Sample){process.pid, time, process.sm, process.memory, 0, 0};
    if (!result && !found) result = NOT_FOUND;
    if (!result && found > (out ? *count : 0)) result = INSUFFICIENT_SIZE;
    if (!result || result == INSUFFICIENT_SIZE) *count = found;
    return leave(result);
}

/* ---- events: "gpu.M.event.N" is "TYPE DATA"; a set is told of those after its creation ---- */

typedef struct { Device *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } Event;

int nvmlEventSetCreate(EventSet **out) {
    int result = enter();
    EventSet *set = result ? NULL : calloc(1, sizeof *set);
    if (!result && !set) result = NO_MEMORY;
    if (!result) {
        for (int gpu = 0; gpu < MOST_GPUS; gpu++)
            while (fact("gpu.%d.event.%u", gpu, set->seen[gpu])) set->seen[gpu]++;
        *out = set;
    }
    return leave(result);
}

int nvmlEventSetFree(EventSet *set) {
    free(set);
    return OK;
}

int nvmlDeviceGetSupportedEventTypes(Device *device, unsigned long long *out) {
    return number_query(device, "event_types", (long long *)out);
}

int nvmlDeviceRegisterEvents(Device *device, unsigned long long types, EventSet *set) {
    int result = enter_device(device);
    const char *supported = result ? NULL : device_fact(device, "event_types");
    if (!result) result = error_of(supported);
    if (!result && types & ~(unsigned long long)number_of(supported)) result = NOT_SUPPORTED;
    if (!result) set->types[device->gpu] |= types;
    return leave(result);
}

static int next_event(EventSet *set, Event *out) {
    const char *value;
    int broken = 0;
    for (int gpu = 0; gpu < MOST_GPUS; gpu++) {
        while ((value = fact("gpu.%d.event.%u", gpu, set->seen[gpu]))) {
            unsigned long long type, data;
            set->seen[gpu]++;
            if (sscanf(value, "%llu %llu", &type, &data) != 2 || !(set->types[gpu] & type)) continue;
            *out = (Event){NULL, type, data, ~0u, ~0u};
            return give_handle(gpu, -1, &out->device);
        }
        broken = broken || (set->types[gpu] && lost(gpu) == GPU_IS_LOST);
    }
    return broken ? GPU_IS_LOST : TIMEOUT;
}

int nvmlEventSetWait_v2(EventSet *set, Event *out, unsigned milliseconds) {
    struct timespec start, now, pause = {0, POLL_NANOSECONDS};
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        int result = enter();
        result = leave(result ? result : next_event(set, out));
        clock_gettime(CLOCK_MONOTONIC, &now);
        long long waited = (now.tv_sec - start.tv_sec) * 1000ll + (now.tv_nsec - start.tv_nsec) / 1000000;
        if (result != TIMEOUT || waited >= milliseconds) return result;
        nanosleep(&pause, NULL); /* the lock is free meanwhile */
    }
}
