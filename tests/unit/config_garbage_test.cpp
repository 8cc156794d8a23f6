// Whatever is given as a job, the answer is a job or a UsageError: never a crash, never another exception.
#include <gtest/gtest.h>

#include <array>
#include <random>

#include "unit/config_support.h"

namespace gptq {
namespace {

using config_test::JobFile;

/// Reads `text` as a job file; fails the test unless it is a job or a UsageError. Returns true if it is a
/// job.
bool survives(const std::string& text, const std::vector<std::string>& overrides = {}) {
  const JobFile file(text);
  try {
    const JobConfig job = read_job(file.path(), overrides);
    // What was accepted can be written and read again.
    EXPECT_EQ(to_yaml(read_job(JobFile(to_yaml(job)).path(), {})), to_yaml(job)) << text;
    return true;
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()), "");
    return false;
  }
}

TEST(ConfigGarbage, RandomBytes) {
  std::mt19937 random(1);
  for (int i = 0; i < 500; ++i) {
    std::string text(random() % 200, ' ');
    for (char& letter : text) letter = static_cast<char>(random() % 256);
    EXPECT_FALSE(survives(text));
  }
}

TEST(ConfigGarbage, RandomPiecesOfYaml) {
  const std::array<std::string, 36> pieces = {"model", "path",  "quantization",
                                              "bits",  ":",     ": ",
                                              "\n",    "\n  ",  "\n    ",
                                              "- ",    "[",     "]",
                                              "{",     "}",     ",",
                                              "'",     "\"",    "\\",
                                              "&a ",   "*a",    "!",
                                              "!!",    "<<: ",  "?",
                                              "|",     ">\n  ", "#",
                                              "%",     "@",     "---",
                                              "\n...", "~",     "4",
                                              "x",     "\t",    "\xc3\xa4"};
  std::mt19937 random(2);
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (std::size_t count = random() % 24; count > 0; --count) text += pieces[random() % pieces.size()];
    survives(text, {"eval.data=" + text, text});
  }
}

TEST(ConfigGarbage, DamagedJobs) {
  const std::string job =
      "model:\n  path: source\ncalibration: {path: a.h5, num_samples: 3}\nquantization:\n  bits: 3\n  sym: "
      "false\n"
      "  damp_percent: 1e-2\n  exclude: ['lm_head', \"a.b\"]\n"
      "  module_bits: {down_proj: 8}\n  dynamic:\n    '-:.*\\.0\\.': {}\n    '+:.*q_proj': {bits: 8, sym: "
      "true}\n"
      "output:\n  path: out\nlog: {level: info}\n";
  ASSERT_TRUE(survives(job));
  std::mt19937 random(3);
  int still_jobs = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string text = job;
    const std::size_t at = random() % text.size();
    const std::size_t other = random() % text.size();
    switch (random() % 4) {
      case 0:
        text[at] = static_cast<char>(' ' + random() % 95);
        break;
      case 1:
        text.resize(at);
        break;
      case 2:
        text.erase(at, random() % 20);
        break;
      default:
        text.insert(at, text.substr(other, random() % 20));
        break;
    }
    still_jobs += survives(text) ? 1 : 0;
  }
  EXPECT_GT(still_jobs, 25) << "the damage is too heavy to test the reader behind the parser";
  EXPECT_LT(still_jobs, 950);
}

}  // namespace
}  // namespace gptq
