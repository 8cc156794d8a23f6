#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <mutex>

/// Streams and events. GPTQ_EMULATION_STREAMS says when work runs:
///   eager        at once, as it is put in
///   lazy         not before a wait of the host demands it, and only what that wait needs
///   random:SEED  as lazy, but anything ready may also run at any time
/// All are legal orders on a GPU, so results must not differ.
namespace emulation {

/// Everything of the emulation happens under this lock, one thing at a time.
std::recursive_mutex& machine_mutex();

cudaStream_t create_stream(bool blocking);
void destroy_stream(cudaStream_t stream);
/// Puts work into a stream. The null stream waits for the blocking ones and runs at once.
void submit(cudaStream_t stream, std::function<void()> work);
void drain(cudaStream_t stream);
void drain_all();
/// Nothing is left in the stream. Makes a step of its work if there is some: who polls gets on.
bool idle(cudaStream_t stream);

cudaEvent_t create_event(bool timing);
void destroy_event(cudaEvent_t event);
void record_event(cudaEvent_t event, cudaStream_t stream);
void make_wait(cudaStream_t stream, cudaEvent_t event);
void drain_to(cudaEvent_t event);
bool reached(cudaEvent_t event);  ///< as idle()
/// Milliseconds; negative if one of them keeps no time or was not reached.
float elapsed(cudaEvent_t first, cudaEvent_t last);

}  // namespace emulation
