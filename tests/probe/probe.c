/* Tell what a program can see and do here: a line "question<TAB>answer" for each.
 *
 * A call that a filter or a missing capability refuses is "closed" with its errno (EPERM, EACCES,
 * ENOSYS); whatever else the kernel says means that it was let through: "open". Arguments are such
 * that a call which is let through does nothing. Each call is made in a child of its own.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef AF_VSOCK
#define AF_VSOCK 40
#endif

static void answer(const char *question, const char *text) {
    printf("%s\t%s\n", question, text);
    fflush(stdout);
}

static const char *name_of(int error) {
    switch (error) {
    case EPERM: return "EPERM";
    case EACCES: return "EACCES";
    case ENOSYS: return "ENOSYS";
    case EROFS: return "EROFS";
    case ENOENT: return "ENOENT";
    case EIO: return "EIO";
    default: return "other";
    }
}

/* The verdict over a result of a system call. */
static const char *verdict(long result) {
    static char text[40];
    int error = errno;
    if (result >= 0 || (error != EPERM && error != EACCES && error != ENOSYS)) return "open";
    snprintf(text, sizeof text, "closed (%s)", name_of(error));
    return text;
}

/* Ask in a child, which may change itself or be killed. */
#define ASK(question, expression)                                     \
    do {                                                              \
        fflush(stdout);                                               \
        pid_t child = fork();                                         \
        if (child == 0) {                                             \
            errno = 0;                                                \
            long result = (long)(expression);                         \
            answer(question, verdict(result));                        \
            _exit(0);                                                 \
        }                                                             \
        int status = 0;                                               \
        waitpid(child, &status, 0);                                   \
        if (WIFSIGNALED(status)) answer(question, "closed (killed)"); \
    } while (0)

#define CALL(...) syscall(__VA_ARGS__)

static void status_line(const char *field) {
    char line[512], question[64];
    FILE *file = fopen("/proc/self/status", "re");
    if (!file) return;
    size_t length = strlen(field);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, field, length) && line[length] == ':') {
            line[strcspn(line, "\n")] = 0;
            snprintf(question, sizeof question, "status %s", field);
            answer(question, line + length + 1 + strspn(line + length + 1, "\t "));
        }
    fclose(file);
}

/* What a file can be opened for; a masked one is empty. */
static void file(const char *path) {
    char question[128], text[64], byte;
    snprintf(question, sizeof question, "read %s", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status;
    if (fd < 0)
        snprintf(text, sizeof text, "closed (%s)", name_of(errno));
    else if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
        int entries = 0;
        DIR *directory = fdopendir(fd);
        while (directory && readdir(directory)) entries++;
        snprintf(text, sizeof text, entries > 2 ? "open" : "closed (empty)");
    } else
        snprintf(text, sizeof text, read(fd, &byte, 1) == 1 ? "open" : "closed (empty)");
    answer(question, text);
}

static void writable(const char *path) {
    char question[128], text[64];
    snprintf(question, sizeof question, "write %s", path);
    struct stat status;
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
        char below[256];
        snprintf(below, sizeof below, "%s/probe-%d", path, getpid());
        int made = mkdir(below, 0700);
        snprintf(text, sizeof text, made ? "closed (%s)" : "open", name_of(errno));
        if (!made) rmdir(below);
    } else {
        int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
        /* /dev/null in the place of a masked file takes what is written. */
        if (fd >= 0 && fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && strncmp(path, "/dev/", 5))
            snprintf(text, sizeof text, "closed (masked)");
        else
            snprintf(text, sizeof text, fd < 0 ? "closed (%s)" : "open", name_of(errno));
    }
    answer(question, text);
}

static void mounts(void) {
    static const char *const shown[] = {"/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm",
                                        "/dev/mqueue", "/sys/fs/cgroup"};
    static const char *const kept[] = {"ro", "rw", "nosuid", "nodev", "noexec"};
    char line[4096], question[64], text[128];
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        FILE *table = fopen("/proc/self/mounts", "re");
        if (!table) return;
        strcpy(text, "none");
        while (fgets(line, sizeof line, table)) {
            strtok(line, " ");
            char *target = strtok(NULL, " ");
            strtok(NULL, " ");
            char *options = strtok(NULL, " ");
            if (!options || strcmp(target, shown[i])) continue;
            text[0] = 0;
            char *rest = options;
            for (char *option; (option = strsep(&rest, ","));)
                for (size_t k = 0; k < sizeof kept / sizeof *kept; k++)
                    if (!strcmp(option, kept[k])) {
                        if (text[0]) strcat(text, ",");
                        strcat(text, option);
                    }
        }
        fclose(table);
        snprintf(question, sizeof question, "mount %s", shown[i]);
        answer(question, text);
    }
}

static int by_name(const void *first, const void *second) {
    return strcmp(*(char *const *)first, *(char *const *)second);
}

static void entries(const char *path, const char *question) {
    char *names[256], text[2048] = "";
    int count = 0;
    DIR *directory = opendir(path);
    if (!directory) return;
    for (struct dirent *entry; count < 256 && (entry = readdir(directory));)
        if (entry->d_name[0] != '.') names[count++] = strdup(entry->d_name);
    closedir(directory);
    qsort(names, count, sizeof *names, by_name);
    for (int i = 0; i < count && strlen(text) < 1800; i++) {
        if (i) strcat(text, " ");
        strcat(text, names[i]);
    }
    answer(question, text);
}

static void processes(void) {
    int count = 0;
    char text[32];
    DIR *directory = opendir("/proc");
    if (!directory) return;
    for (struct dirent *entry; (entry = readdir(directory));)
        count += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
    closedir(directory);
    snprintf(text, sizeof text, "%d", count);
    answer("processes in /proc", text);
}

static void interfaces(void) {
    char text[512] = "";
    struct if_nameindex *list = if_nameindex();
    for (struct if_nameindex *each = list; each && each->if_index; each++) {
        if (text[0]) strcat(text, " ");
        strncat(text, each->if_name, sizeof text - strlen(text) - 2);
    }
    if_freenameindex(list);
    answer("network interfaces", text);
}

static long add_a_key(void) {
    return CALL(SYS_add_key, "user", "probe", "x", 1L, -3L /* KEY_SPEC_SESSION_KEYRING */);
}

static long lower_oom_score(void) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    return fd < 0 ? fd : write(fd, "-999", 4);
}

static long make_device(void) {
    long result = mknod("/probe-device", S_IFBLK | 0600, makedev(254, 0));
    if (result == 0) {
        int fd = open("/probe-device", O_RDONLY | O_CLOEXEC);
        int error = errno;
        unlink("/probe-device");
        errno = error;
        return fd;
    }
    return result;
}

int main(void) {
    char zeros[256] = {0}, text[64];
    struct rlimit limit;

    for (const char *const *field =
             (const char *const[]){"CapInh", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", NULL};
         *field; field++)
        status_line(*field);
    processes();
    entries("/dev", "names in /dev");
    interfaces();
    mounts();
    getrlimit(RLIMIT_CORE, &limit);
    snprintf(text, sizeof text, limit.rlim_max ? "open" : "closed (0)");
    answer("core dumps", text);

    static const char *const read_files[] = {
        "/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/kpagecount", "/proc/timer_list", "/proc/sched_debug",
        "/proc/interrupts", "/proc/acpi", "/proc/scsi", "/proc/asound", "/proc/latency_stats",
        "/proc/1/environ", "/proc/vmallocinfo", "/proc/slabinfo", "/sys/firmware",
        "/sys/fs/selinux", "/sys/devices/virtual/powercap", "/sys/kernel/debug", "/sys/kernel/tracing",
        "/sys/kernel/security", "/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/net/tun"};
    for (size_t i = 0; i < sizeof read_files / sizeof *read_files; i++) file(read_files[i]);
    static const char *const written_files[] = {
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/panic_on_oom",
        "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc/register", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity",
        "/proc/bus", "/proc/fs", "/proc/timer_list", "/sys", "/sys/kernel/uevent_helper",
        "/sys/module/apparmor/parameters/mode", "/sys/fs/cgroup", "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/cgroup.procs", "/dev/shm", "/dev/mqueue", "/dev", "/"};
    for (size_t i = 0; i < sizeof written_files / sizeof *written_files; i++)
        writable(written_files[i]);

    ASK("a user namespace", unshare(CLONE_NEWUSER));
    ASK("a mount namespace", unshare(CLONE_NEWNS));
    ASK("a network namespace", unshare(CLONE_NEWNET));
    ASK("a cgroup namespace", unshare(CLONE_NEWCGROUP));
    ASK("a time namespace", unshare(0x80));
    ASK("clone with CLONE_NEWUSER", CALL(SYS_clone, 0x10000000 | 17, 0L, 0L, 0L, 0L) ?: (_exit(0), 0));
    ASK("clone3", CALL(SYS_clone3, zeros, 8L));
    ASK("setns", setns(-1, 0));
    ASK("mount", mount("none", "/nosuch", "tmpfs", 0, NULL));
    ASK("umount", umount2("/nosuch", 0));
    ASK("pivot_root", CALL(SYS_pivot_root, "/nosuch", "/nosuch"));
    ASK("fsopen", CALL(SYS_fsopen, "nosuch", 0L));
    ASK("open_tree", CALL(SYS_open_tree, -1L, "nosuch", 1L));
    ASK("move_mount", CALL(SYS_move_mount, -1L, "", -1L, "", 0L));
    ASK("mount_setattr", CALL(SYS_mount_setattr, -1L, "nosuch", 0L, zeros, 32L));
    ASK("chroot", chroot("/"));
    ASK("name_to_handle_at", CALL(SYS_name_to_handle_at, -1L, "nosuch", zeros, zeros, 0L));
    ASK("open_by_handle_at", CALL(SYS_open_by_handle_at, -1L, zeros, 0L));
    ASK("fanotify_init", CALL(SYS_fanotify_init, 0L, 0L));
    ASK("quotactl", CALL(SYS_quotactl, 0x80000100L, "nosuch", 0L, zeros));
    ASK("swapon", CALL(SYS_swapon, "/nosuch", 0L));
    ASK("acct", CALL(SYS_acct, "/nosuch"));
    ASK("making a block device", make_device());

    ASK("the session keyring", CALL(SYS_keyctl, 0L, -3L, 0L));
    ASK("the user keyring", CALL(SYS_keyctl, 0L, -4L, 0L));
    ASK("add_key", add_a_key());
    ASK("request_key", CALL(SYS_request_key, "user", "nosuch", NULL, 0L));
    ASK("bpf", CALL(SYS_bpf, 0L, zeros, 16L));
    ASK("perf_event_open", CALL(SYS_perf_event_open, zeros, 0L, -1L, -1L, 0L));
    ASK("userfaultfd", CALL(SYS_userfaultfd, 1L));
    ASK("io_uring_setup", CALL(SYS_io_uring_setup, 0L, zeros));
    ASK("memfd_secret", CALL(SYS_memfd_secret, 0L));
    ASK("personality that fixes addresses", CALL(SYS_personality, 0x0040000L));
    ASK("personality of another system", CALL(SYS_personality, 0x0002L | 0x0100000L));

    ASK("ptrace of itself", CALL(SYS_ptrace, 0L, 0L, 0L, 0L));
    ASK("process_vm_readv", CALL(SYS_process_vm_readv, (long)getppid(), zeros, 0L, zeros, 0L, 0L));
    ASK("kcmp", CALL(SYS_kcmp, (long)getpid(), (long)getpid(), 0L, 0L, 0L));
    ASK("pidfd_getfd", CALL(SYS_pidfd_getfd, -1L, 0L, 0L));
    ASK("move_pages", CALL(SYS_move_pages, 0L, 0L, NULL, NULL, NULL, 0L));
    ASK("mbind", CALL(SYS_mbind, NULL, 0L, 0L, NULL, 0L, 0L));
    ASK("a lower oom_score_adj", lower_oom_score());

    ASK("a raw socket", socket(AF_INET, SOCK_RAW, 1));
    ASK("a ping socket", socket(AF_INET, SOCK_DGRAM, 1));
    ASK("AF_PACKET", socket(AF_PACKET, SOCK_RAW, 0));
    ASK("AF_ALG", socket(38, SOCK_SEQPACKET, 0));
    ASK("AF_VSOCK", socket(AF_VSOCK, SOCK_STREAM, 0));
    ASK("netlink of netfilter", socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER));
    ASK("netlink of audit", socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT));

    ASK("syslog", CALL(SYS_syslog, 10L, NULL, 0L));
    ASK("settimeofday", CALL(SYS_settimeofday, NULL, NULL));
    ASK("clock_settime", CALL(SYS_clock_settime, 0L, NULL));
    ASK("adjtimex", CALL(SYS_adjtimex, zeros));
    ASK("reboot", CALL(SYS_reboot, 0L, 0L, 0L, NULL));
    ASK("kexec_load", CALL(SYS_kexec_load, 0L, 0L, NULL, 4L));
    ASK("init_module", CALL(SYS_init_module, zeros, 0L, ""));
    ASK("delete_module", CALL(SYS_delete_module, "nosuch", 0L));
#ifdef __x86_64__
    ASK("iopl", CALL(SYS_iopl, 0L));
    ASK("ioperm", CALL(SYS_ioperm, 0L, 1L, 0L));
    ASK("modify_ldt", CALL(SYS_modify_ldt, 0L, NULL, 0L));
    ASK("a call of x32", CALL(0x40000000 | 39));
#endif
    ASK("nice -1", setpriority(PRIO_PROCESS, 0, -1));
    ASK("sched_setscheduler", CALL(SYS_sched_setscheduler, 0L, 1L, &(int){1}));
    ASK("landlock", CALL(SYS_landlock_create_ruleset, NULL, 0L, 1L));
    return 0;
}
