// SPDX-License-Identifier: GPL-2.0-only
#include "cli/text_table.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace slotzap {

std::string Align(const std::vector<Row>& rows, size_t text_columns) {
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); i++) widths[i] = std::max(widths[i], row[i].size());
  }
  std::ostringstream os;
  for (const Row& row : rows) {
    std::ostringstream line;
    for (size_t i = 0; i < row.size(); i++) {
      line << (i == 0 ? "" : "  ") << (i < text_columns ? std::left : std::right)
           << std::setw(static_cast<int>(widths[i])) << row[i];
    }
    std::string text = line.str();
    text.resize(text.find_last_not_of(' ') + 1);
    os << text << "\n";
  }
  return os.str();
}

}  // namespace slotzap
