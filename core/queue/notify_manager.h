// Tells the service manager about the server's state: the protocol of sd_notify(3).
#ifndef BQ_QUEUE_NOTIFY_MANAGER_H
#define BQ_QUEUE_NOTIFY_MANAGER_H

// "READY=1", "STOPPING=1". Does nothing without $NOTIFY_SOCKET; a manager that doesn't listen is its own problem.
void bq_notify_manager(const char *state);

#endif
