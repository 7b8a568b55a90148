/* What Android's init does for a service before it starts it: user, groups, capabilities, no standard streams.
 * service UID GROUPS CAPABILITIES PROGRAM [ARGUMENT...]; lists of numbers with commas. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int numbers(char *text, unsigned *into, int most) {
    int count = 0;
    for (char *word = strtok(text, ","); word && count < most; word = strtok(NULL, ","))
        into[count++] = (unsigned)strtoul(word, NULL, 10);
    return count;
}

static void must(int failed, const char *what) {
    if (failed) {
        perror(what);
        exit(71);
    }
}

int main(int count, char **words) {
    if (count < 5)
        return 64;
    unsigned groups[32], capabilities[32];
    int several = numbers(words[2], groups, 32), many = numbers(words[3], capabilities, 32);
    uid_t uid = (uid_t)atoi(words[1]);
    gid_t gids[32];
    for (int i = 0; i < several; i++)
        gids[i] = groups[i];
    must(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0, "keepcaps");
    must(setgroups(several, gids) != 0, "groups");
    must(setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0, "user");
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    memset(data, 0, sizeof data);
    for (int i = 0; i < many; i++)
        data[capabilities[i] / 32].permitted |= 1u << (capabilities[i] % 32);
    for (int i = 0; i < 2; i++)
        data[i].effective = data[i].inheritable = data[i].permitted;
    must(syscall(SYS_capset, &head, data) != 0, "capabilities");
    for (int i = 0; i < many; i++)
        must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capabilities[i], 0, 0) != 0, "ambient");
    for (int i = 0; i < 3; i++)
        close(i);
    execv(words[4], words + 4);
    return errno == ENOENT ? 127 : 126;
}
