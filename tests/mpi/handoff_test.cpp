// Streams of hidden states that go round the stages, on ranks that are late at random: each chunk is used
// after it came and is not overwritten before it left.

#include "pipeline/handoff.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <random>
#include <thread>

#include "backend/cpu_backend.h"
#include "backend/cuda_plugin.h"
#include "backend/device_matrix.h"
#include "comm/mpi_communicator.h"
#include "mpi_world.h"
#include "support/places.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

constexpr std::int64_t kHidden = 24;
constexpr std::int64_t kBlocks = 6;
constexpr int kStreams = 2;

/// Memory that the host cannot touch, and queues whose work is done as late as they allow.
std::unique_ptr<Backend> make_far_backend() {
  // In a bundle the plugin stayed where it was built.
  if (emulated_plugin().empty() || !std::filesystem::exists(emulated_plugin())) return nullptr;
  const char* const before = std::getenv(kCudaPluginVariable);
  const std::string plugin = before != nullptr ? before : "";
  setenv(kCudaPluginVariable, emulated_plugin().c_str(), 1);
  setenv("GPTQ_EMULATION_STREAMS", "lazy", 1);  // read when the first work is put into a queue
  auto backend = make_backend({"cuda", 1, 0});
  unsetenv(kCudaPluginVariable);
  if (!plugin.empty()) setenv(kCudaPluginVariable, plugin.c_str(), 1);
  return backend;
}

/// What block `block` makes of a value, as said by row and column of its chunk; small whole numbers, so that
/// floats are exact.
float next_value(float value, std::int64_t block, int stream, std::int64_t row, std::int64_t column) {
  return static_cast<float>((block * 7 + stream * 5 + row * 3 + column) % 97) - value;
}

float first_value(std::int64_t row, std::int64_t column, int stream) {
  return static_cast<float>((row * 13 + column * 5 + stream * 101) % 997);
}

/// The same by kernels, in their queue.
void apply(Backend& backend, const Matrix& hidden, std::int64_t block, int stream) {
  HostTensor addends = make_tensor(DType::f32, {hidden.rows, hidden.cols});
  for (std::int64_t r = 0; r < hidden.rows; ++r) {
    for (std::int64_t c = 0; c < hidden.cols; ++c)
      addends.matrix().row<float>(r)[c] = next_value(0, block, stream, r, c);
  }
  const DeviceMatrix a(backend, addends);
  const DeviceMatrix next(backend, DType::f32, hidden.rows, hidden.cols);
  backend.kernels().subtract(a.matrix(), hidden, {}, next.matrix());
  backend.copy(hidden.data, next.matrix().data,
               static_cast<std::size_t>(hidden.rows * hidden.cols) * sizeof(float));
}

class Round {
 public:
  Round(Backend& backend, GridShape shape, Place place, std::int64_t first_block, unsigned seed)
      : backend_(backend),
        world_(MPI_COMM_WORLD),
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
      apply(backend_, hidden, block, stream);
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
          wrong += values[k] != last_value(row, at / kHidden, at % kHidden, stream);
        }
        row += rows.chunk(i).tokens;
      }
      EXPECT_EQ(wrong, 0) << "stream " << stream << ", stage " << grid_.place().stage;
    }
  }

  /// first_row: of the chunk, among all samples.
  float last_value(std::int64_t first_row, std::int64_t row, std::int64_t column, int stream) const {
    float value = first_value(first_row + row, column, stream);
    for (std::int64_t block = first_block_; block < kBlocks; ++block)
      value = next_value(value, block, stream, row, column);
    return value;
  }

  Backend& backend_;
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
  const auto backend = make_far_backend();
  if (backend == nullptr) GTEST_SKIP() << "needs the emulated device";
  go_round(*backend, Place::device);
}

TEST(Handoff, OfRowsThatPassTheDeviceTwoAtATime) {
  const auto backend = make_far_backend();
  if (backend == nullptr) GTEST_SKIP() << "needs the emulated device";
  go_round(*backend, Place::host);
  go_round(*backend, Place::disk);
}

/// One stream on two stages, in chunks too large to leave unless their receiver is there.
class OneStream {
 public:
  explicit OneStream(Backend& backend)
      : world_(MPI_COMM_WORLD, {5, 1, 2}),
        grid_(world_, {2, test::world().size() / 2}, 0, kBlocks),
        handoff_(backend, grid_, 1) {
    data_.samples.assign(8, std::vector<std::int32_t>(400, 1));
    rows_ = std::make_unique<Activations>(backend, data_, make_chunks(std::vector<std::int64_t>(8, 400), 400),
                                          kHidden, 0, DType::f32, Activations::Room{});
    std::vector<float> values(rows_->hidden_bytes(0) / sizeof(float));
    for (std::size_t i = 0; i < rows_->chunks(); ++i) {
      std::fill(values.begin(), values.end(), sends() ? static_cast<float>(i) : -1.0f);
      rows_->write_hidden_chunk(i, values.data());
    }
  }

  bool sends() const { return grid_.holds(0); }
  Activations& rows() { return *rows_; }
  Communicator& world() { return world_; }
  Handoff& handoff() { return handoff_; }
  void send_all() {
    for (std::size_t i = 0; i < rows_->chunks(); ++i) handoff_.send(0, 0, i, *rows_);
  }
  void receive_all() {
    handoff_.expect(0, 1, *rows_);
    for (std::size_t i = 0; i < rows_->chunks(); ++i) handoff_.wait_for(0, i);
  }

 private:
  MpiCommunicator world_;
  ProcessGrid grid_;
  CalibrationData data_;
  std::unique_ptr<Activations> rows_;
  Handoff handoff_;
};

TEST(Handoff, ChunksLeaveWhileTheirRankIsInACollective) {
  if (world().size() % 2 != 0) GTEST_SKIP() << "needs two stages";
  const auto backend = make_far_backend();
  if (backend == nullptr) GTEST_SKIP() << "needs the emulated device";
  OneStream stream(*backend);
  if (stream.sends()) {
    stream.send_all();  // more than there are pieces of pinned memory
  } else {
    stream.receive_all();
  }
  stream.world().barrier();
  if (stream.sends()) {
    stream.handoff().wait_sent(0);
  } else {
    for (std::size_t i = 0; i < stream.rows().chunks(); ++i) {
      std::vector<float> values(stream.rows().hidden_bytes(i) / sizeof(float));
      stream.rows().read_hidden_chunk(i, values.data());
      EXPECT_EQ(values, std::vector<float>(values.size(), static_cast<float>(i)));
    }
  }
  stream.world().barrier();
}

TEST(Handoff, ABlockThatWasNotGivenOnIsNotOverwritten) {
  if (world().size() % 2 != 0) GTEST_SKIP() << "needs two stages";
  const auto backend = make_cpu_backend(1);
  OneStream stream(*backend);
  if (stream.sends()) {
    EXPECT_THROW(stream.handoff().send(0, 0, 1, stream.rows()), Error) << "the first chunk goes first";
    stream.send_all();
    stream.handoff().wait_sent(0);
  } else {
    stream.handoff().expect(0, 1, stream.rows());
    stream.handoff().wait_for(0, 0);
    EXPECT_THROW(stream.handoff().expect(0, 3, stream.rows()), Error) << "chunks are still coming";
    for (std::size_t i = 0; i < stream.rows().chunks(); ++i) stream.handoff().wait_for(0, i);
    EXPECT_THROW(stream.handoff().expect(0, 3, stream.rows()), Error) << "none was given to send()";
  }
  stream.world().barrier();
}

}  // namespace
}  // namespace gptq::test
