/* Queries of the machine and its GPUs. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "facts.h"

enum { MOST_LINKS = 36, GPU_TO_GPU = 0, GPU_TO_SWITCH = 2 };

/* ---- queries that are one fact ---- */

#define TEXT(FUNCTION, NAME) \
    int FUNCTION(Device *device, char *out, unsigned size) { return text_query(device, NAME, out, size); }
#define UNSIGNED(FUNCTION, NAME) \
    int FUNCTION(Device *device, unsigned *out) { return unsigned_query(device, NAME, out); }

TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetSerial, "serial")
UNSIGNED(nvmlDeviceGetMinorNumber, "minor")
UNSIGNED(nvmlDeviceGetPowerUsage, "power")
UNSIGNED(nvmlDeviceGetEnforcedPowerLimit, "power_limit")
UNSIGNED(nvmlDeviceGetPowerManagementLimit, "power_limit")
UNSIGNED(nvmlDeviceGetNumaNodeId, "memory_numa")
UNSIGNED(nvmlDeviceGetGpuInstanceId, "gpu_instance")
UNSIGNED(nvmlDeviceGetComputeInstanceId, "compute_instance")
UNSIGNED(nvmlDeviceGetMaxMigDeviceCount, "most_slices")
UNSIGNED(nvmlDeviceGetComputeMode, "compute_mode")
UNSIGNED(nvmlDeviceGetPcieReplayCounter, "pcie_replays")
UNSIGNED(nvmlDeviceGetPerformanceState, "performance_state")

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *out) {
    return number_query(device, "energy", (long long *)out);
}

int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *out) {
    return number_query(device, "clock_reasons", (long long *)out);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *out) {
    return nvmlDeviceGetCurrentClocksEventReasons(device, out);
}

int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *out) {
    return sensor == 0 ? unsigned_query(device, "temperature", out) : INVALID_ARGUMENT;
}

typedef struct { unsigned version; int sensor, temperature; } Temperature;

int nvmlDeviceGetTemperatureV(Device *device, Temperature *out) {
    return nvmlDeviceGetTemperature(device, out->sensor, (unsigned *)&out->temperature);
}

static int numbered_query(Device *device, const char *name, unsigned number, unsigned *out) {
    char full[64];
    snprintf(full, sizeof full, "%s.%u", name, number);
    return unsigned_query(device, full, out);
}

int nvmlDeviceGetTemperatureThreshold(Device *device, unsigned kind, unsigned *out) {
    return numbered_query(device, "threshold", kind, out);
}

int nvmlDeviceGetClockInfo(Device *device, unsigned kind, unsigned *out) {
    return numbered_query(device, "clock", kind, out);
}

int nvmlDeviceGetMaxClockInfo(Device *device, unsigned kind, unsigned *out) {
    return numbered_query(device, "most_clock", kind, out);
}

int nvmlDeviceGetTotalEccErrors(Device *device, unsigned uncorrected, unsigned aggregate, unsigned long long *out) {
    char name[32];
    snprintf(name, sizeof name, "ecc.%u.%u", uncorrected, aggregate);
    return number_query(device, name, (long long *)out);
}

static int mode_query(Device *device, const char *name, unsigned *current, unsigned *pending) {
    int result = unsigned_query(device, name, current);
    if (!result) *pending = *current;
    return result;
}

int nvmlDeviceGetEccMode(Device *device, unsigned *current, unsigned *pending) {
    return mode_query(device, "ecc_mode", current, pending);
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    return mode_query(device, "mig_mode", current, pending);
}

int nvmlDeviceGetVirtualizationMode(Device *device, unsigned *out) {
    return unsigned_query(device, "virtualization", out);
}

int nvmlDeviceGetC2cModeInfoV(Device *device, unsigned *out) { return unsigned_query(device, "c2c", out); }

/* ---- queries whose fact has several numbers ---- */

int nvmlDeviceGetUtilizationRates(Device *device, unsigned out[2]) {
    return tuple_query(device, "utilization", 2, "%u %u", &out[0], &out[1]);
}

int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    return tuple_query(device, "compute_capability", 2, "%d.%d", major, minor);
}

int nvmlDeviceGetRemappedRows(Device *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed) {
    return tuple_query(device, "remapped_rows", 4, "%u %u %u %u", corrected, uncorrected, pending, failed);
}

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;

static int memory_query(Device *device, MemoryV2 *out) { /* MiB in the file, bytes to the caller */
    int result = tuple_query(device, "memory", 3, "%llu %llu %llu", &out->total, &out->reserved, &out->used);
    out->total <<= 20, out->reserved <<= 20, out->used <<= 20;
    out->free = out->total - out->reserved - out->used;
    return result;
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *out) { /* the first version counts what is reserved as used */
    MemoryV2 found = {0};
    int result = memory_query(device, &found);
    if (!result) *out = (Memory){found.total, found.free, found.total - found.free};
    return result;
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *out) {
    if (out->version != (sizeof *out | 2u << 24)) return VERSION_MISMATCH;
    MemoryV2 found = {out->version, 0, 0, 0, 0};
    int result = memory_query(device, &found);
    if (!result) *out = found;
    return result;
}

int nvmlDeviceGetMemoryAffinity(Device *device, unsigned words, unsigned long *out, unsigned scope) {
    long long numa = -1;
    int result = number_query(device, "numa", &numa);
    (void)scope;
    if (result) return result;
    if (numa < 0) return NOT_SUPPORTED;
    if (numa / 64 >= words) return INSUFFICIENT_SIZE;
    memset(out, 0, words * sizeof *out);
    out[numa / 64] = 1ul << numa % 64;
    return OK;
}

typedef struct {
    char legacy_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char id[32];
} Pci;

static int give_pci(const char *address, Pci *out) {
    Pci found = {0};
    int result = give_text(address, found.id, sizeof found.id);
    if (result) return result;
    if (sscanf(address, "%x:%x:%x", &found.domain, &found.bus, &found.device) != 3) return OPERATING_SYSTEM;
    snprintf(found.legacy_id, sizeof found.legacy_id, "%04x:%02x:%02x.0", found.domain & 0xffff, found.bus & 0xff,
             found.device & 0xff);
    *out = found;
    return OK;
}

int nvmlDeviceGetPciInfo_v3(Device *device, Pci *out) {
    int result = enter_device(device);
    return leave(result ? result : give_pci(device_fact(device, "pci"), out));
}

typedef struct {
    unsigned field, scope;
    long long time, latency;
    unsigned type, result;
    unsigned long long value;
} FieldValue;

int nvmlDeviceGetFieldValues(Device *device, int count, FieldValue *values) {
    int result = enter_device(device);
    for (int index = 0; !result && index < count; index++) {
        const char *value = fact("gpu.%d.field.%u", device->gpu, values[index].field);
        values[index].type = 1; /* unsigned */
        values[index].result = (unsigned)error_of(value);
        values[index].value = (unsigned long long)number_of(value);
    }
    return leave(result);
}

/* ---- the machine and its handles ---- */

const char *nvmlErrorString(int error) {
    switch (error) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case TIMEOUT: return "Timeout";
    case GPU_IS_LOST: return "GPU is lost";
    case 16: return "GPU requires reset";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

static int system_text(const char *name, char *out, unsigned size) {
    int result = enter();
    return leave(result ? result : give_text(fact("%s", name), out, size));
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) { return system_text("driver_version", out, size); }

int nvmlSystemGetNVMLVersion(char *out, unsigned size) { return system_text("nvml_version", out, size); }

int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    int result = enter();
    if (!result) result = error_of(fact("cuda_version"));
    if (!result) *out = (int)number_of(fact("cuda_version"));
    return leave(result);
}

int nvmlSystemGetCudaDriverVersion(int *out) { return nvmlSystemGetCudaDriverVersion_v2(out); }

int nvmlDeviceGetCount_v2(unsigned *out) {
    int result = enter();
    if (!result) for (*out = 0; is_there((int)*out);) ++*out;
    return leave(result);
}

int nvmlDeviceGetCount(unsigned *out) { return nvmlDeviceGetCount_v2(out); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **out) {
    int result = enter();
    if (!result && (index >= MOST_GPUS || !is_there((int)index))) result = INVALID_ARGUMENT;
    if (!result) result = lost((int)index);
    return leave(result ? result : give_handle((int)index, -1, out));
}

int nvmlDeviceGetHandleByIndex(unsigned index, Device **out) { return nvmlDeviceGetHandleByIndex_v2(index, out); }

static int handle_by(const char *name, const char *wanted, Device **out) {
    int result = enter();
    if (result) return leave(result);
    for (int gpu = 0; is_there(gpu); gpu++) {
        const char *value = fact("gpu.%d.%s", gpu, name);
        if (value && !strcasecmp(value, wanted)) return leave(lost(gpu) ? lost(gpu) : give_handle(gpu, -1, out));
        for (int slice = 0; (value = fact("gpu.%d.slice.%d.%s", gpu, slice, name)) && slice < MOST_SLICES; slice++)
            if (!strcasecmp(value, wanted)) return leave(lost(gpu) ? lost(gpu) : give_handle(gpu, slice, out));
    }
    return leave(NOT_FOUND);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **out) { return handle_by("uuid", uuid, out); }

int nvmlDeviceGetHandleByPciBusId_v2(const char *address, Device **out) { return handle_by("pci", address, out); }

int nvmlDeviceGetIndex(Device *device, unsigned *out) {
    int result = enter_device(device);
    if (!result) *out = (unsigned)(device->slice < 0 ? device->gpu : device->slice);
    return leave(result);
}

/* ---- MIG ---- */

int nvmlDeviceIsMigDeviceHandle(Device *device, unsigned *out) {
    int result = enter_device(device);
    if (!result) *out = device->slice >= 0;
    return leave(result);
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **out) {
    int result = enter_device(device);
    if (!result && (index >= MOST_SLICES || !fact("gpu.%d.slice.%u.uuid", device->gpu, index))) result = NOT_FOUND;
    return leave(result ? result : give_handle(device->gpu, (int)index, out));
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *slice, Device **out) {
    int result = enter_device(slice);
    return leave(result ? result : give_handle(slice->gpu, -1, out));
}

typedef struct {
    unsigned processors, engines[5], gpu_slices, compute_slices;
    unsigned long long memory_mib;
} Attributes;

int nvmlDeviceGetAttributes_v2(Device *device, Attributes *out) {
    Attributes found = {0};
    if (device->slice < 0) return NOT_SUPPORTED;
    int result = tuple_query(device, "attributes", 2, "%u %llu", &found.gpu_slices, &found.memory_mib);
    found.compute_slices = found.gpu_slices;
    if (!result) *out = found;
    return result;
}

/* ---- links: a link's value is the GPU at its other end, "switch", or "down" ---- */

static int link_query(Device *device, unsigned link, const char **out) {
    int result = enter_device(device);
    if (result) return result;
    if (link >= MOST_LINKS) return INVALID_ARGUMENT;
    *out = fact("gpu.%d.link.%u", device->gpu, link);
    return error_of(*out);
}

int nvmlDeviceGetNvLinkState(Device *device, unsigned link, unsigned *active) {
    const char *end = NULL;
    int result = link_query(device, link, &end);
    if (!result) *active = strcmp(end, "down") != 0;
    return leave(result);
}

int nvmlDeviceGetNvLinkRemoteDeviceType(Device *device, unsigned link, unsigned *kind) {
    const char *end = NULL;
    int result = link_query(device, link, &end);
    if (!result) *kind = strcmp(end, "switch") ? GPU_TO_GPU : GPU_TO_SWITCH;
    return leave(result);
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(Device *device, unsigned link, Pci *out) {
    const char *end = NULL;
    int result = link_query(device, link, &end);
    if (!result) result = give_pci(strcmp(end, "switch") ? fact("gpu.%d.pci", atoi(end)) : "00000000:E0:00.0", out);
    return leave(result);
}

int nvmlDeviceGetTopologyCommonAncestor(Device *one, Device *other, unsigned *level) {
    int result = enter_device(one);
    const char *value = result ? NULL : fact("gpu.%d.ancestor.%d", one->gpu, other->gpu);
    if (!result) result = error_of(value);
    if (!result) *level = (unsigned)number_of(value);
    return leave(result);
}

