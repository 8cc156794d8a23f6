// The exact sum of a Hessian over the ranks, with and without collectives that work beside the kernels: the
// same integers, and nothing touched that is under way. Kernels and collectives are stand-ins that note what
// they are asked for.

#include "pipeline/stage_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "backend/cpu_backend.h"
#include "mpi_world.h"

namespace gptq::test {
namespace {

constexpr std::int64_t kWidth = 1000;  // six panels
constexpr std::int64_t kChunks = 11;

[[noreturn]] void unused() {
  throw std::logic_error("not a part of this test");
}

/// Adds, instead of products, the row's first number to every element of the range: that is a chunk's number.
class NotingKernels final : public Kernels {
 public:
  explicit NotingKernels(std::vector<std::string>& notes) : notes_(notes) {}

  std::vector<PanelRange> hessian_ranges(std::int64_t) const override { return {{0, 2}, {2, 4}, {4, 6}}; }
  void accumulate_hessian(const Matrix& x, std::span<const int>, PanelRange range,
                          std::int64_t* sum) override {
    EXPECT_EQ(x.cols, kWidth);
    const auto value = static_cast<std::int64_t>(x.row<const float>(0)[0]);
    notes_.push_back(fmt::format("{}x{}", value, range.first));
    const std::int64_t begin = TriangularPanels::offset(kWidth, range.first);
    for (std::int64_t k = 0; k < TriangularPanels::size(kWidth, range); ++k)
      sum[begin + k] += value * (1 + (begin + k) % 7);
  }

  std::unique_ptr<LinearWeights> prepare_linear(const Matrix&, std::span<const float>, DType) override {
    unused();
  }
  std::unique_ptr<LinearWeights> prepare_quantized(const QuantizedWeights&, std::span<const float>,
                                                   DType) override {
    unused();
  }
  void linear(const Batch&, const Matrix&, const LinearWeights&, const Matrix&, bool) override { unused(); }
  void embed(std::span<const std::int32_t>, const Matrix&, const Matrix&) override { unused(); }
  void rms_norm(const Matrix&, std::span<const float>, float, float, const Matrix&) override { unused(); }
  void head_rms_norm(const Matrix&, std::span<const float>, float, float) override { unused(); }
  void rotary(const Batch&, const Matrix&, std::int64_t, const RotaryTable&) override { unused(); }
  void attention(const Batch&, const AttentionShape&, const Matrix&, const Matrix&, const Matrix&,
                 const Matrix&) override {
    unused();
  }
  void gated_activation(Activation, const Matrix&, const Matrix&, const Matrix&) override { unused(); }
  void cross_entropy(const Batch&, const Matrix&, const LinearWeights&, std::span<const std::int32_t>,
                     std::span<double>, const LogitForm&) override {
    unused();
  }
  void layer_norm(const Matrix&, std::int64_t, std::span<const float>, std::span<const float>, float,
                  const Matrix&) override {
    unused();
  }
  void activation(Activation, const Matrix&, const Matrix&) override { unused(); }
  void copy_heads(const Matrix&, HeadPattern, const Matrix&, HeadPattern, std::int64_t) override { unused(); }
  void convert(const Matrix&, const Matrix&) override { unused(); }
  void add_scaled(const Matrix&, float, const Matrix&) override { unused(); }
  void scale(const Matrix&, float) override { unused(); }
  void add_positions(const Batch&, const Matrix&, std::int64_t, const Matrix&) override { unused(); }
  bool all_finite(const Matrix&) override { unused(); }
  void column_max(const Matrix&, float*) override { unused(); }
  void hessian_diagonal(const std::int64_t*, std::span<const int>, double, std::span<double>) override {
    unused();
  }
  bool factor(const FactorInput&, float*) override { unused(); }
  std::vector<QuantizedRows> solve_rows(std::span<const RowsToSolve>, const SolveColumns&, const float*,
                                        double, const SolveOptions&) override {
    unused();
  }
  void weigh_rows(const Matrix&, float, const Matrix&, const Matrix&) override { unused(); }
  void subtract(const Matrix&, const Matrix&, std::span<const float>, const Matrix&) override { unused(); }
  void squared_error(const Batch&, const Matrix&, const Matrix&, std::span<double>,
                     std::span<double>) override {
    unused();
  }
  void accumulate_cross(const Matrix&, std::span<const int>, const Matrix&, std::span<const int>,
                        std::int64_t*) override {
    unused();
  }
  void expand_hessian(const FactorInput&, float*) override { unused(); }
  void expand_cross(const FactorInput&, const std::int64_t*, std::span<const int>, float*) override {
    unused();
  }
  void expand_wanted(const FactorInput&, const std::int64_t*, std::int64_t, std::span<const int>,
                     float*) override {
    unused();
  }
  std::vector<HostTensor> correct_rows(std::span<const RowsToSolve>, const SolveColumns&, const float*,
                                       const float*, double) override {
    unused();
  }
  void refine_rows(std::span<const RowsToSolve>, const SolveColumns&, const float*, const SolveOptions&,
                   const RefineOptions&, std::span<QuantizedRows>) override {
    unused();
  }

 private:
  std::vector<std::string>& notes_;
};

/// The CPU's memory with other kernels. far: as if the host could not touch it.
class NotingBackend final : public Backend {
 public:
  NotingBackend(std::vector<std::string>& notes, bool far) : kernels_(notes), far_(far) {}

  std::string name() const override { return "noting"; }
  std::string describe() const override { return "noting"; }
  bool fast_bf16() const override { return false; }
  int threads() const override { return 1; }
  Kernels& kernels() override { return kernels_; }
  bool shares_host_memory() const override { return !far_; }
  std::string device_id() const override { return {}; }
  std::int64_t memory_bytes() const override { return memory_->memory_bytes(); }
  std::int64_t free_memory_bytes() const override { return memory_->free_memory_bytes(); }
  std::int64_t peak_memory_bytes() const override { return memory_->peak_memory_bytes(); }
  DeviceBuffer allocate(std::size_t bytes) override { return memory_->allocate(bytes); }
  DeviceBuffer allocate_host(std::size_t bytes) override { return memory_->allocate_host(bytes); }
  void* scratch(int slot, std::size_t bytes) override { return memory_->scratch(slot, bytes); }
  void upload(void* to, const void* from, std::size_t bytes) override { memory_->upload(to, from, bytes); }
  void download(void* to, const void* from, std::size_t bytes) override {
    memory_->download(to, from, bytes);
  }
  void copy(void* to, const void* from, std::size_t bytes) override { memory_->copy(to, from, bytes); }
  void set_zero(void* memory, std::size_t bytes) override { memory_->set_zero(memory, bytes); }
  void copy_in_queue(Queue queue, void* to, const void* from, std::size_t bytes) override {
    memory_->copy_in_queue(queue, to, from, bytes);
  }
  void order_after(Queue, Queue) override {}
  void synchronize() override {}
  void* native_queue() override { return nullptr; }
  void enter_range(const char*) override {}
  void leave_range() override {}

 private:
  std::unique_ptr<Backend> memory_ = make_cpu_backend(1);
  NotingKernels kernels_;
  bool far_;
};

/// Starts as late as it may: at join(); until then nobody may touch what it was given.
class LateCollectives final : public DeviceCollectives {
 public:
  LateCollectives(std::vector<std::string>& notes, bool overlaps) : notes_(notes), overlaps_(overlaps) {}

  std::string describe() const override { return "late"; }
  bool overlaps() const override { return overlaps_; }
  void all_reduce_sum(std::int64_t* values, std::size_t count) override {
    notes_.push_back("all");
    now_->all_reduce_sum(values, count);
  }
  void start_sum(std::int64_t* values, std::size_t count) override {
    notes_.push_back("start");
    started_.push_back({values, std::vector<std::int64_t>(values, values + count)});
  }
  void join() override {
    notes_.push_back("join");
    for (const Started& sum : started_) {
      EXPECT_TRUE(std::equal(sum.before.begin(), sum.before.end(), sum.values)) << "touched meanwhile";
      now_->all_reduce_sum(sum.values, sum.before.size());
    }
    started_.clear();
  }
  void broadcast(void*, std::size_t, int) override { unused(); }

 private:
  struct Started {
    std::int64_t* values;
    std::vector<std::int64_t> before;
  };
  std::unique_ptr<DeviceCollectives> now_ = make_host_collectives(world());
  std::vector<std::string>& notes_;
  bool overlaps_;
  std::vector<Started> started_;
};

/// A sum as the pipeline makes it, over chunks 1, 2, … kChunks dealt out to the ranks; chunk c counts c.
struct Summing {
  std::vector<std::string> notes;
  std::int64_t rounds = 0;
  std::vector<std::int64_t> values;

  void run(bool overlaps, bool far, const PartialSum& before = {}) {
    NotingBackend backend(notes, far);
    CalibrationData data;
    data.samples.assign(kChunks, {1, 2});
    const std::vector<Chunk> all = make_chunks(std::vector<std::int64_t>(kChunks, 2), 2);
    const auto [first, end] = chunks_of_rank(all, world().rank(), world().size());
    const std::vector<Chunk> mine(all.begin() + static_cast<std::ptrdiff_t>(first),
                                  all.begin() + static_cast<std::ptrdiff_t>(end));
    const Activations::Room room{far ? Place::host : Place::device, {}};
    Activations activations(backend, data, mine, 4, kWidth, DType::f32, room);
    for (std::size_t i = 0; i < mine.size(); ++i) {
      std::vector<float> row(kWidth, static_cast<float>(mine[i].index + 1));
      activations.write_x(i, 0, {row.data(), DType::f32, 1, kWidth, kWidth});
    }
    LateCollectives collectives(notes, overlaps);
    PhaseClock phases(backend);
    StageSummer summer(backend, world(), collectives, 2 * kChunks, 1e-6f, phases);
    StageInput input(activations, nullptr, kWidth);
    input.maximum.assign(kWidth, 1);
    const StageSums sums =
        summer.accumulate(input, before, [&](const StageSums&, const std::vector<std::int64_t>&) {
          ++rounds;
          notes.push_back("round");
        });
    values.assign(sums.hessian.values(), sums.hessian.values() + sums.hessian.count());
  }
  void expect_whole() const {
    constexpr std::int64_t total = kChunks * (kChunks + 1) / 2;
    std::size_t wrong = 0;
    for (std::size_t k = 0; k < values.size(); ++k)
      wrong += values[k] != total * (1 + static_cast<std::int64_t>(k) % 7);
    EXPECT_EQ(wrong, 0u);
  }
  /// Kernels of the last round, without their chunks, and the collectives.
  std::string end() const {
    const auto round = std::find(notes.rbegin(), notes.rend(), "round").base();
    std::string text;
    for (auto note = round; note != notes.end(); ++note) {
      const std::size_t cross = note->find('x');
      text += (cross == std::string::npos ? *note : note->substr(cross + 1)) + " ";
    }
    return text;
  }
};

std::string repeated(std::size_t times, const std::string& text) {
  std::string result;
  for (std::size_t i = 0; i < times; ++i) result += text;
  return result;
}

/// Of this rank, in the last of as many rounds as the rank with the most chunks has (at most 8).
std::size_t chunks_of_last_round() {
  const std::vector<Chunk> all = make_chunks(std::vector<std::int64_t>(kChunks, 2), 2);
  std::size_t most = 0;
  for (int rank = 0; rank < world().size(); ++rank) {
    const auto [first, end] = chunks_of_rank(all, rank, world().size());
    most = std::max(most, end - first);
  }
  const auto [first, end] = chunks_of_rank(all, world().rank(), world().size());
  const std::size_t rounds = std::min<std::size_t>(8, most), mine = end - first;
  return mine - mine * (rounds - 1) / rounds;
}

TEST(StageSum, IsTheSameWhereverTheReductionRuns) {
  Summing plain, overlapped, far;
  plain.run(false, false);
  overlapped.run(true, false);
  far.run(true, true);
  for (const Summing* sum : {&plain, &overlapped, &far}) {
    sum->expect_whole();
    EXPECT_EQ(sum->rounds, plain.rounds);
  }
}

TEST(StageSum, IsReducedRangeByRangeWhereThatCanBeHidden) {
  const std::size_t chunks = chunks_of_last_round();
  const std::string by_chunk = repeated(chunks, "0 2 4 ");
  Summing plain, overlapped, far;
  plain.run(false, false);
  EXPECT_EQ(plain.end(), by_chunk + "all ");
  overlapped.run(true, false);
  far.run(true, true);
  if (world().size() == 1) {
    EXPECT_EQ(overlapped.end(), by_chunk + "all ");
    return;
  }
  EXPECT_EQ(overlapped.end(), repeated(chunks, "0 ") + "start " + repeated(chunks, "2 ") + "start " +
                                  repeated(chunks, "4 ") + "start join ");
  EXPECT_EQ(far.end(), by_chunk + "start start start join ") << "chunks are not copied once a range";
}

TEST(StageSum, OfNothingMoreIsStillReduced) {
  PartialSum before;
  before.panels.assign(static_cast<std::size_t>(TriangularPanels::size(kWidth)), world().is_root() ? 5 : 0);
  before.done_anywhere.resize(kChunks);
  std::iota(before.done_anywhere.begin(), before.done_anywhere.end(), std::int64_t{0});
  for (const bool overlaps : {false, true}) {
    Summing sum;
    sum.run(overlaps, false, before);
    EXPECT_EQ(sum.rounds, 0);
    EXPECT_EQ(sum.values, std::vector<std::int64_t>(before.panels.size(), 5));
    EXPECT_EQ(sum.end(), overlaps && world().size() > 1 ? "start start start join " : "all ");
  }
}

}  // namespace
}  // namespace gptq::test
