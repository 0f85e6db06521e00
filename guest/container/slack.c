#include "quick.h"
#include "slack.h"

#include <sys/prctl.h>

/*
 * The linker lets the constructor of libcontainer's, which runs before Go's
 * runtime starts its threads, come here. It does not return to the processes
 * that it only needs on the way; what becomes the container's process is forked
 * by them, with the slack that they have.
 */
void __real_nsexec(void);

void __wrap_nsexec(void)
{
	prctl(PR_SET_TIMERSLACK, KATA_USUAL_SLACK, 0, 0, 0);
	__real_nsexec();
	kata_quick_process();
	prctl(PR_SET_TIMERSLACK, KATA_COARSE_SLACK, 0, 0, 0);
}
