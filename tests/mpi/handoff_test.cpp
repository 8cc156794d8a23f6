// Streams of hidden states that go round the stages, on ranks that are late at random: each chunk is used
// after it came and is not overwritten before it left.

#include "pipeline/handoff.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <random>
#include <thread>

#include "backend/cpu_backend.h"
#include "comm/mpi_communicator.h"
#include "mpi_world.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

constexpr std::int64_t kHidden = 24;
constexpr std::int64_t kBlocks = 6;
constexpr int kStreams = 2;

/// The CPU's memory, as if the host could not touch it.
class FarBackend final : public Backend {
 public:
  std::string name() const override { return "far"; }
  std::string describe() const override { return "far"; }
  bool fast_bf16() const override { return false; }
  int threads() const override { return 1; }
  Kernels& kernels() override { return near_->kernels(); }
  bool shares_host_memory() const override { return false; }
  std::string device_id() const override { return "far"; }
  std::int64_t memory_bytes() const override { return near_->memory_bytes(); }
  std::int64_t free_memory_bytes() const override { return near_->free_memory_bytes(); }
  std::int64_t peak_memory_bytes() const override { return near_->peak_memory_bytes(); }
  DeviceBuffer allocate(std::size_t bytes) override { return near_->allocate(bytes); }
  DeviceBuffer allocate_host(std::size_t bytes) override { return near_->allocate_host(bytes); }
  void* scratch(int slot, std::size_t bytes) override { return near_->scratch(slot, bytes); }
  void upload(void* to, const void* from, std::size_t bytes) override { near_->upload(to, from, bytes); }
  void download(void* to, const void* from, std::size_t bytes) override { near_->download(to, from, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) override { near_->copy(to, from, bytes); }
  void set_zero(void* memory, std::size_t bytes) override { near_->set_zero(memory, bytes); }
  void copy_in_queue(Queue queue, void* to, const void* from, std::size_t bytes) override {
    near_->copy_in_queue(queue, to, from, bytes);
  }
  void order_after(Queue, Queue) override {}
  void synchronize() override {}
  void* native_queue() override { return nullptr; }
  void enter_range(const char*) override {}
  void leave_range() override {}

 private:
  std::unique_ptr<Backend> near_ = make_cpu_backend(1);
};

/// What block `block` makes of a value; small whole numbers, so that floats are exact.
float next_value(float value, std::int64_t block, int stream) {
  return std::fmod(value * 3 + static_cast<float>(block * 7 + stream * 5 + 1), 997.0f);
}

float first_value(std::int64_t row, std::int64_t column, int stream) {
  return static_cast<float>((row * 13 + column * 5 + stream * 101) % 997);
}

class Round {
 public:
  Round(Backend& backend, GridShape shape, Place place, std::int64_t first_block, unsigned seed)
      : world_(MPI_COMM_WORLD),
        grid_(world_, shape, first_block, kBlocks),
        first_block_(first_block),
        random_(seed + 1000 * static_cast<unsigned>(world().rank())),
        handoff_(backend, grid_, kStreams) {
    for (const std::int64_t length : {3, 9, 1, 4, 4, 17, 2, 6, 5})
      data_.samples.emplace_back(static_cast<std::size_t>(length), 1);
    std::vector<std::int64_t> lengths;
    for (const auto& sample : data_.samples) lengths.push_back(static_cast<std::int64_t>(sample.size()));
    const std::vector<Chunk> all = make_chunks(lengths, 6);
    const auto [first, end] = chunks_of_rank(all, grid_.place().replica, shape.replicas);
    const std::vector<Chunk> own(all.begin() + static_cast<std::ptrdiff_t>(first),
                                 all.begin() + static_cast<std::ptrdiff_t>(end));
    for (std::size_t i = 0; i < first; ++i) first_row_ += all[i].tokens;
    for (int stream = 0; stream < kStreams; ++stream) {
      streams_.push_back(std::make_unique<Activations>(backend, data_, own, kHidden, 0, DType::f32,
                                                       Activations::Room{place, spill_.path()}));
      fill(*streams_.back(), stream);
    }
  }

  void run() {
    for (std::int64_t block = grid_.next_own_block(-1); block < kBlocks;
         block = grid_.next_own_block(block)) {
      for (int stream = 0; stream < kStreams; ++stream) {
        if (block > first_block_) handoff_.expect(stream, block, activations(stream));
      }
      for (int stream = 0; stream < kStreams; ++stream) pass(block, stream);
    }
    if (grid_.holds(kBlocks)) arrive_behind_the_last();
    for (int stream = 0; stream < kStreams; ++stream) handoff_.wait_sent(stream);
  }

 private:
  Activations& activations(int stream) { return *streams_[static_cast<std::size_t>(stream)]; }

  /// The embedding where the stream begins, elsewhere what no arithmetic cures.
  void fill(Activations& stream, int number) {
    std::int64_t row = first_row_;
    for (std::size_t i = 0; i < stream.chunks(); ++i) {
      std::vector<float> values;
      for (const std::int64_t end = row + stream.chunk(i).tokens; row < end; ++row) {
        for (std::int64_t column = 0; column < kHidden; ++column) {
          values.push_back(grid_.holds(first_block_) ? first_value(row, column, number)
                                                     : std::numeric_limits<float>::quiet_NaN());
        }
      }
      stream.write_hidden_chunk(i, values.data());
    }
  }

  void be_late() {
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 4 == 0 ? random_() % 3000 : 0));
  }

  void pass(std::int64_t block, int stream) {
    Activations& rows = activations(stream);
    rows.on_chunk([&](std::size_t i) { handoff_.wait_for(stream, i); },
                  [&](std::size_t i) {
                    handoff_.send(stream, block, i, rows);
                    handoff_.progress();
                  });
    Activations::Use use;
    use.hidden = Activations::Use::updated;
    rows.visit(use, [&](std::size_t, const Matrix& hidden, const Matrix&, const Matrix&) {
      be_late();
      for (std::int64_t r = 0; r < hidden.rows; ++r) {
        for (std::int64_t c = 0; c < kHidden; ++c)
          hidden.row<float>(r)[c] = next_value(hidden.row<float>(r)[c], block, stream);
      }
    });
    rows.on_chunk({}, {});
  }

  void arrive_behind_the_last() {
    for (int stream = 0; stream < kStreams; ++stream) {
      Activations& rows = activations(stream);
      if (kBlocks > first_block_) handoff_.expect(stream, kBlocks, rows);
      std::int64_t row = first_row_, wrong = 0;
      for (std::size_t i = 0; i < rows.chunks(); ++i) {
        handoff_.wait_for(stream, i);
        std::vector<float> values(rows.hidden_bytes(i) / sizeof(float));
        rows.read_hidden_chunk(i, values.data());
        for (std::size_t k = 0; k < values.size(); ++k) {
          const auto at = static_cast<std::int64_t>(k);
          wrong += values[k] != last_value(row + at / kHidden, at % kHidden, stream);
        }
        row += rows.chunk(i).tokens;
      }
      EXPECT_EQ(wrong, 0) << "stream " << stream << ", stage " << grid_.place().stage;
    }
  }

  float last_value(std::int64_t row, std::int64_t column, int stream) const {
    float value = first_value(row, column, stream);
    for (std::int64_t block = first_block_; block < kBlocks; ++block)
      value = next_value(value, block, stream);
    return value;
  }

  TempDirectory spill_;
  MpiCommunicator world_;
  ProcessGrid grid_;
  std::int64_t first_block_;
  std::mt19937 random_;
  CalibrationData data_;
  std::int64_t first_row_ = 0;
  std::vector<std::unique_ptr<Activations>> streams_;
  Handoff handoff_;
};

void go_round(Backend& backend, Place place) {
  for (int stages = 1; stages <= world().size(); ++stages) {
    if (world().size() % stages != 0) continue;
    for (unsigned trial = 0; trial < 3; ++trial) {
      SCOPED_TRACE(testing::Message() << stages << " stages, trial " << trial);
      Round(backend, {stages, world().size() / stages}, place, trial % 3, trial).run();
    }
  }
}

TEST(Handoff, FromHostMemoryToHostMemory) {
  go_round(*make_cpu_backend(1), Place::device);
}

TEST(Handoff, ThroughPinnedPiecesWhereTheHostCannotTouchTheRows) {
  FarBackend backend;
  go_round(backend, Place::device);
}

TEST(Handoff, OfRowsThatPassTheDeviceTwoAtATime) {
  FarBackend backend;
  go_round(backend, Place::host);
  go_round(backend, Place::disk);
}

}  // namespace
}  // namespace gptq::test
