#pragma once

namespace gptq {

/// From now on SIGTERM, SIGINT and SIGUSR1 ask the job to stop at its next safe point; a second one ends the process
/// at once with that signal's default action. For main, before MPI starts threads of its own.
void catch_stop_signals();

/// The signal that asked this process to stop; 0: none did.
int stop_requested();

const char* signal_name(int signal);  ///< "SIGUSR1"

}  // namespace gptq
