// Schedules written by hand, and the laws that every schedule keeps.

#include "pipeline/visit_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace gptq {
namespace {

using Kind = Visit::Kind;
using Visits = std::vector<Visit>;

ScheduleShape shape_of(int stages, std::int64_t blocks, std::vector<std::int64_t> starts = {0}) {
  ScheduleShape shape;
  shape.grid = {stages, 2};
  shape.first_block = *std::min_element(starts.begin(), starts.end());
  shape.blocks = blocks;
  shape.starts = std::move(starts);
  return shape;
}

TEST(VisitSchedule, OneStageTakesBlockAfterBlock) {
  EXPECT_EQ(visits_of_stage(shape_of(1, 3), 0), (Visits{{0}, {1}, {2}}));
  EXPECT_EQ(visits_of_stage(shape_of(1, 3, {1}), 0), (Visits{{1}, {2}}));
  EXPECT_EQ(rounds(shape_of(1, 3, {1})), 2);
}

TEST(VisitSchedule, StagesTakeTurnsAndHelpEachOther) {
  ScheduleShape shape = shape_of(2, 3);
  EXPECT_EQ(visits_of_stage(shape, 0), (Visits{{0}, {2}}));
  EXPECT_EQ(visits_of_stage(shape, 1), (Visits{{1}}));
  shape.helpers = true;
  EXPECT_EQ(visits_of_stage(shape, 0), (Visits{{0}, {1, 0, Kind::help}, {2}}));
  EXPECT_EQ(visits_of_stage(shape, 1), (Visits{{0, 0, Kind::help}, {1}, {2, 0, Kind::help}}));
}

TEST(VisitSchedule, ASweepHoldsABlockForAllRecipes) {
  ScheduleShape shape = shape_of(2, 4, {0, 0});
  shape.has_reference = true;
  const Visits first{{0, 0, Kind::reference}, {0, 0}, {0, 1}, {2, 0, Kind::reference}, {2, 0}, {2, 1}};
  EXPECT_EQ(visits_of_stage(shape, 0), first);
  EXPECT_EQ(cuts(shape, first), (std::vector<std::size_t>{3, 6}));
}

TEST(VisitSchedule, ARecipeThatIsAheadIsNotVisitedAgainButTheReferenceComesBy) {
  ScheduleShape shape = shape_of(1, 3, {2, 0, 3});  // the last one is finished
  shape.full_precision = true;
  EXPECT_EQ(visits_of_stage(shape, 0), (Visits{{0, 0, Kind::reference},
                                               {0, 1},
                                               {1, 0, Kind::reference},
                                               {1, 1},
                                               {2, 0, Kind::reference},
                                               {2, 0},
                                               {2, 1}}));
}

TEST(VisitSchedule, TheHeadIsTheBlockBehindTheLast) {
  ScheduleShape shape = shape_of(2, 2);
  shape.quantizes_head = true;
  EXPECT_EQ(visits_of_stage(shape, 0), (Visits{{0}, {2}}));
  EXPECT_EQ(rounds(shape), 2);
  EXPECT_EQ(cuts(shape, visits_of_stage(shape, 1)), (std::vector<std::size_t>{1, 1}));
}

TEST(VisitSchedule, AFinishedJobHasNoVisits) {
  const ScheduleShape shape = shape_of(2, 5, {5, 5});
  for (int stage = 0; stage < 2; ++stage) EXPECT_TRUE(visits_of_stage(shape, stage).empty());
  EXPECT_EQ(rounds(shape), 0);
}

TEST(VisitSchedule, AShapeThatContradictsItselfIsRefused) {
  ScheduleShape shape = shape_of(2, 5, {1, 3});
  shape.first_block = 0;
  EXPECT_ANY_THROW(visits_of_stage(shape, 0));
  shape = shape_of(2, 5, {0, 6});
  EXPECT_ANY_THROW(visits_of_stage(shape, 0));
  shape = shape_of(2, 5, {0, 0});
  shape.helpers = true;
  EXPECT_ANY_THROW(visits_of_stage(shape, 0));
}

/// Walks all stages' schedules together, each as far as its inputs allow, and notes what breaks a law.
class Walk {
 public:
  explicit Walk(const ScheduleShape& shape) : shape_(shape) {
    for (int stage = 0; stage < shape.grid.stages; ++stage) visits_.push_back(visits_of_stage(shape, stage));
    next_.resize(visits_.size());
  }

  void check() {
    while (step()) {
    }
    for (std::size_t stage = 0; stage < visits_.size(); ++stage)
      EXPECT_EQ(next_[stage], visits_[stage].size()) << "stage " << stage << " waits for ever";
    check_complete();
    check_cuts();
  }

 private:
  using Done = std::pair<std::int64_t, int>;  ///< block, recipe; recipe -1: the reference pass

  bool uses_reference() const { return shape_.full_precision || shape_.has_reference; }
  std::int64_t start_of(const Visit& visit) const {
    return visit.kind == Kind::reference ? shape_.first_block
                                         : shape_.starts[static_cast<std::size_t>(visit.recipe)];
  }
  /// Its stream comes from the visit of the block before.
  bool can_run(const Visit& visit) const {
    if (visit.kind == Kind::help) return true;  // it waits inside
    const int stream = visit.kind == Kind::reference ? -1 : visit.recipe;
    return visit.block == start_of(visit) || done_.contains({visit.block - 1, stream}) ||
           (shape_.full_precision && stream >= 0);
  }
  bool step() {
    bool moved = false;
    for (std::size_t stage = 0; stage < visits_.size(); ++stage) {
      while (next_[stage] < visits_[stage].size() && can_run(visits_[stage][next_[stage]])) {
        run(static_cast<int>(stage), visits_[stage][next_[stage]++]);
        moved = true;
      }
    }
    return moved;
  }
  void run(int stage, const Visit& visit) {
    const bool holds = stage_of_block(shape_.grid, shape_.first_block, visit.block) == stage;
    EXPECT_EQ(holds, visit.kind != Kind::help) << "block " << visit.block << " at stage " << stage;
    if (visit.kind == Kind::help) return;
    const Done done{visit.block, visit.kind == Kind::reference ? -1 : visit.recipe};
    EXPECT_TRUE(done_.insert(done).second) << "block " << visit.block << " is visited again";
    if (visit.kind == Kind::quantize && uses_reference()) {
      EXPECT_TRUE(done_.contains({visit.block, -1})) << "the reference comes after its user";
    }
  }
  void check_complete() const {
    std::size_t expected = 0;
    for (const std::int64_t start : shape_.starts)
      expected += static_cast<std::size_t>(end_block(shape_) - start);
    if (uses_reference()) expected += static_cast<std::size_t>(end_block(shape_) - shape_.first_block);
    EXPECT_EQ(done_.size(), expected);
  }
  /// Behind round j everybody has finished the blocks below origin + j·S, and begun none beyond.
  void check_cuts() const {
    for (const Visits& visits : visits_) {
      const std::vector<std::size_t> ends = cuts(shape_, visits);
      ASSERT_EQ(static_cast<std::int64_t>(ends.size()), rounds(shape_));
      for (std::size_t round = 0; round < ends.size(); ++round) {
        const std::int64_t bound =
            shape_.first_block + static_cast<std::int64_t>(round + 1) * shape_.grid.stages;
        for (std::size_t i = 0; i < visits.size(); ++i) EXPECT_EQ(visits[i].block < bound, i < ends[round]);
      }
      EXPECT_EQ(ends.empty() ? 0 : ends.back(), visits.size());
    }
  }

  ScheduleShape shape_;
  std::vector<Visits> visits_;
  std::vector<std::size_t> next_;
  std::set<Done> done_;
};

TEST(VisitSchedule, KeepsItsLawsForEveryShape) {
  for (int stages = 1; stages <= 5; ++stages) {
    for (const std::int64_t blocks : {1, 2, 5, 8}) {
      for (const std::vector<std::int64_t>& starts :
           {std::vector<std::int64_t>{0}, {1}, {0, 0, 0}, {1, 0}, {0, blocks}}) {
        if (*std::max_element(starts.begin(), starts.end()) > blocks) continue;
        for (int flags = 0; flags < 16; ++flags) {
          ScheduleShape shape = shape_of(stages, blocks, starts);
          shape.full_precision = (flags & 1) != 0;
          shape.has_reference = (flags & 2) != 0;
          shape.quantizes_head = (flags & 4) != 0;
          shape.helpers = (flags & 8) != 0;
          if (shape.helpers && (starts.size() > 1 || shape.full_precision)) continue;
          SCOPED_TRACE(testing::Message() << stages << " stages, " << blocks << " blocks, " << starts.size()
                                          << " recipes from " << starts[0] << ", flags " << flags);
          Walk(shape).check();
        }
      }
    }
  }
}

TEST(GridShape, PlacesAndRanksAreOneToOneAndReplicasAreNeighbours) {
  const GridShape shape{3, 4};
  std::map<std::pair<int, int>, int> seen;
  for (int rank = 0; rank < shape.ranks(); ++rank) {
    const GridPlace place = place_of(shape, rank);
    EXPECT_EQ(rank_at(shape, place), rank);
    EXPECT_EQ(place.stage, rank / 4);
    seen[{place.stage, place.replica}] = rank;
  }
  EXPECT_EQ(seen.size(), 12u);
  EXPECT_ANY_THROW(place_of(shape, 12));
}

}  // namespace
}  // namespace gptq
