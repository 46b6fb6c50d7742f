/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sim-mutant.h - the mutant is chosen when the program starts
 *
 * Purpose: included ahead of every source of sim-mutants, which is compiled
 *          with WEIR_MUTANT=sim_mutant: one build for all deliberate bugs.
 */
#pragma once

extern int sim_mutant;
