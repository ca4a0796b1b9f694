// SPDX-License-Identifier: GPL-2.0-only
#include "harness/main.h"

int main(int argc, char** argv) { return slotzap::HarnessMain(argc, argv); }
