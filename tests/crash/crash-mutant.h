/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * crash-mutant.h - the mutant is chosen when the program starts
 *
 * Purpose: included ahead of every source of crash-mutants, which is compiled
 *          with WEIR_MUTANT=crash_mutant: one build for all deliberate bugs.
 */
#pragma once

extern int crash_mutant;
