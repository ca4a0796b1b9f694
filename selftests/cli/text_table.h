// SPDX-License-Identifier: GPL-2.0-only
// Rows of text with their columns aligned.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace slotzap {

using Row = std::vector<std::string>;

// One line per row, two spaces between columns: the first `text_columns` to the left, the others,
// which are numbers, to the right.
std::string Align(const std::vector<Row>& rows, size_t text_columns);

}  // namespace slotzap
