#pragma once

#include <map>
#include <string>

#include "base/clock.h"

namespace gptq {

/// Wall seconds by phase of this rank. Phases do not nest.
class PhaseClock {
 public:
  class Scope {
   public:
    Scope(double& total) : total_(total) {}
    ~Scope() { total_ += watch_.seconds(); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    double& total_;
    Stopwatch watch_;
  };

  [[nodiscard]] Scope in(const std::string& phase) { return Scope(seconds_[phase]); }
  const std::map<std::string, double>& seconds() const { return seconds_; }

 private:
  std::map<std::string, double> seconds_;
};

}  // namespace gptq
