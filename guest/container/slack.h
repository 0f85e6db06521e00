#ifndef KATA_SLACK_H
#define KATA_SLACK_H

/* How late timers may be, in nanoseconds: as Linux has it for every program, and
 * for the threads of the agent and of its helpers. See package container's slack.go. */
#define KATA_USUAL_SLACK 50000L
#define KATA_COARSE_SLACK 10000000L

#endif
