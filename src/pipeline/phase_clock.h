#pragma once

#include <exception>
#include <map>
#include <string>

#include "backend/backend.h"
#include "base/clock.h"

namespace gptq {

/// Wall seconds by phase of this rank, kernels included: a phase ends when its kernels are done. Phases do
/// not nest.
class PhaseClock {
 public:
  explicit PhaseClock(Backend& backend) : backend_(backend) {}

  class Scope {
   public:
    Scope(PhaseClock& clock, const std::string& phase) : clock_(clock), total_(clock.seconds_[phase]) {
      clock_.last_ = phase;
      clock_.backend_.enter_range(phase.c_str());
    }
    /// Throws what the phase's kernels met, unless something is being thrown already.
    ~Scope() noexcept(false) {
      const LeaveRange leave{clock_.backend_};  // after the kernels, whatever they met
      if (std::uncaught_exceptions() == exceptions_) clock_.backend_.synchronize();
      total_ += watch_.seconds();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    struct LeaveRange {
      Backend& backend;
      ~LeaveRange() { backend.leave_range(); }
    };

    PhaseClock& clock_;
    double& total_;
    int exceptions_ = std::uncaught_exceptions();
    Stopwatch watch_;
  };

  [[nodiscard]] Scope in(const std::string& phase) { return Scope(*this, phase); }
  const std::map<std::string, double>& seconds() const { return seconds_; }
  /// The phase that began last, for messages about failures in it.
  const std::string& last() const { return last_; }

 private:
  Backend& backend_;
  std::map<std::string, double> seconds_;
  std::string last_ = "start";
};

}  // namespace gptq
