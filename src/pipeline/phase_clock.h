#pragma once

#include <exception>
#include <map>
#include <string>
#include <utility>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/trace.h"

namespace gptq {

/// Wall seconds by phase of this rank, kernels included: a phase ends when its kernels are done. Time of a
/// phase inside another counts for the inner one alone.
class PhaseClock {
 public:
  /// trace: also told of every phase; null: none is made.
  explicit PhaseClock(Backend& backend, Trace* trace = nullptr) : backend_(backend), trace_(trace) {}

  class Scope {
   public:
    /// of_host: the phase is not about kernels, and those in the queues go on behind its end.
    Scope(PhaseClock& clock, const std::string& phase, bool of_host = false)
        : clock_(clock),
          entry_(*clock.seconds_.try_emplace(phase).first),
          of_host_(of_host),
          outer_(clock.innermost_) {
      clock_.innermost_ = this;
      clock_.last_ = phase;
      clock_.backend_.enter_range(phase.c_str());
    }
    /// Throws what the phase's kernels met, unless something is being thrown already.
    ~Scope() noexcept(false) {
      const Leave leave{*this};  // after the kernels, whatever they met
      if (!of_host_ && std::uncaught_exceptions() == exceptions_) clock_.backend_.synchronize();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    struct Leave {
      Scope& scope;
      ~Leave() { scope.leave(); }
    };
    void leave() {
      const double seconds = watch_.seconds();
      entry_.second += seconds - inner_seconds_;
      if (clock_.trace_ != nullptr)
        clock_.trace_->add({entry_.first, begin_, seconds, clock_.block_, TraceLane::work});
      clock_.backend_.leave_range();
      clock_.innermost_ = outer_;
      if (outer_ == nullptr) return;
      outer_->inner_seconds_ += seconds;
      clock_.last_ = outer_->entry_.first;
    }

    PhaseClock& clock_;
    std::pair<const std::string, double>& entry_;
    bool of_host_;
    Scope* outer_;
    double inner_seconds_ = 0;
    double begin_ = trace_clock();
    int exceptions_ = std::uncaught_exceptions();
    Stopwatch watch_;
  };

  [[nodiscard]] Scope in(const std::string& phase) { return Scope(*this, phase); }
  /// For what the host waits for or does beside the kernels.
  [[nodiscard]] Scope on_host(const std::string& phase) { return Scope(*this, phase, true); }
  /// What the phases to come are about, for the trace; -1: no block.
  void set_block(std::int64_t block) { block_ = block; }
  Trace* trace() const { return trace_; }
  const std::map<std::string, double>& seconds() const { return seconds_; }
  /// The phase that this rank is in, or was in last, for messages about failures.
  const std::string& last() const { return last_; }

 private:
  Backend& backend_;
  Trace* trace_;
  std::int64_t block_ = -1;
  std::map<std::string, double> seconds_;
  std::string last_ = "start";
  Scope* innermost_ = nullptr;
};

}  // namespace gptq
