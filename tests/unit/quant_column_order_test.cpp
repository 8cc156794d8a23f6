#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quant/column_order.h"

namespace gptq {
namespace {

using ::testing::ElementsAre;

QuantizationSection options(std::int64_t group_size, bool desc_act, bool group_aware,
                            bool static_groups = false) {
  QuantizationSection section;
  section.group_size = group_size;
  section.desc_act = desc_act;
  section.act_group_aware = group_aware;
  section.static_groups = static_groups;
  return section;
}

const std::vector<double> kDiagonal{1, 5, 3, 9, 0, 3, 7};

TEST(ColumnOrder, NaturalWithRaggedGroup) {
  const SolveColumns columns = arrange_columns(kDiagonal, options(3, false, false));
  EXPECT_THAT(columns.order, ElementsAre(0, 1, 2, 3, 4, 5, 6));
  EXPECT_THAT(columns.group_of, ElementsAre(0, 0, 0, 1, 1, 1, 2));
  EXPECT_EQ(columns.groups, 3);
  EXPECT_THAT(columns.dead, ElementsAre(0, 0, 0, 0, 1, 0, 0));
}

TEST(ColumnOrder, ActivationOrderFormsGroupsAsItGoes) {
  const SolveColumns columns = arrange_columns(kDiagonal, options(3, true, false));
  EXPECT_THAT(columns.order, ElementsAre(3, 6, 1, 2, 5, 0, 4));  // 2 before 5: equal, stable
  EXPECT_THAT(columns.group_of, ElementsAre(1, 0, 1, 0, 2, 1, 0));
}

TEST(ColumnOrder, StaticGroupsKeepTheirPlaces) {
  const SolveColumns columns = arrange_columns(kDiagonal, options(3, true, false, true));
  EXPECT_THAT(columns.order, ElementsAre(3, 6, 1, 2, 5, 0, 4));
  EXPECT_THAT(columns.group_of, ElementsAre(0, 0, 0, 1, 1, 1, 2));
}

// The second group holds the largest diagonal and goes first; the ragged group stays last though its 7 beats
// the first.
TEST(ColumnOrder, GroupAwareOrder) {
  const SolveColumns columns = arrange_columns(kDiagonal, options(3, false, true));
  EXPECT_THAT(columns.order, ElementsAre(3, 5, 4, 1, 2, 0, 6));
  EXPECT_THAT(columns.group_of, ElementsAre(0, 0, 0, 1, 1, 1, 2));
}

TEST(ColumnOrder, GroupsWiderThanTheLayerAndOfOneColumn) {
  for (const std::int64_t width : {-1, 7, 1000})
    EXPECT_EQ(arrange_columns(kDiagonal, options(width, false, true)).groups, 1);
  EXPECT_EQ(arrange_columns(kDiagonal, options(1, false, true)).groups, 7);
  EXPECT_THAT(arrange_columns(kDiagonal, options(1, false, true)).order, ElementsAre(3, 6, 1, 2, 5, 0, 4));
}

TEST(ColumnOrder, NaturalColumnsWeighTheSame) {
  const SolveColumns columns = natural_columns(4, options(2, true, false));
  EXPECT_THAT(columns.order, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(columns.weight, ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(columns.dead, ElementsAre(0, 0, 0, 0));
}

TEST(ColumnOrder, WeightsOfAnyMagnitudeFitAFloat) {
  const SolveColumns columns = arrange_columns(std::vector<double>{1e60, 1e59, 0}, options(-1, false, false));
  EXPECT_THAT(columns.weight, ElementsAre(1.0f, 0.1f, 0.0f));
}

}  // namespace
}  // namespace gptq
