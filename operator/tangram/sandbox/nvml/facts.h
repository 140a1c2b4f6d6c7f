/* NVML's interface over a text file, so that programs meet GPUs, and their failures, on machines that have none.
 *
 * The file ($TANGRAM_NVML) has a line "KEY VALUE" for each fact, such as "gpu.0.temperature 41"; state.py writes it.
 * It is read again whenever it changes. A fact that is missing makes its query NVML_ERROR_NOT_SUPPORTED, as the driver
 * answers for a GPU that lacks the feature; the value "!15" makes it NVML error 15, whatever the query. Signatures,
 * structures, numbers of errors and the meaning of each query are NVML's: https://docs.nvidia.com/deploy/nvml-api/
 */
#ifndef TANGRAM_FACTS_H
#define TANGRAM_FACTS_H

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15, OPERATING_SYSTEM = 17, NO_MEMORY = 20,
       VERSION_MISMATCH = 25 };
enum { MOST_GPUS = 64, MOST_SLICES = 16 };

typedef struct { int gpu, slice; } Device; /* slice -1: the whole GPU */

#pragma GCC visibility push(hidden)

/* Every query enters, which holds the lock and reads what changed, and leaves with its result. */
int enter(void);
int enter_device(const Device *device);
int leave(int result);

/* Between enter and leave: */
const char *fact(const char *format, ...);
const char *device_fact(const Device *device, const char *name);
int error_of(const char *value);
long long number_of(const char *value);
int is_there(int gpu);
int lost(int gpu); /* the error of a GPU that does not answer; 0: it does */
int give_text(const char *value, char *out, unsigned size);
int give_handle(int gpu, int slice, Device **out);

/* Whole queries: */
int text_query(Device *device, const char *name, char *out, unsigned size);
int number_query(Device *device, const char *name, long long *out);
int unsigned_query(Device *device, const char *name, unsigned *out);
int tuple_query(Device *device, const char *name, int wanted, const char *format, ...);

#pragma GCC visibility pop
#endif
